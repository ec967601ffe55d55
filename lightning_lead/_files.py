"""Files that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["UNFINISHED", "finite", "replacing", "write_json"]

UNFINISHED = ".unfinished-"
"""What the names of files begin with that are not yet whole."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` if the block ends well, and vanishes otherwise.

    Args:
        path: the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "note.txt") as draft:
        ...         _ = draft.write_text("all of it")
        ...     [file.name for file in Path(folder).iterdir()]
        ['note.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{UNFINISHED}{secrets.token_hex(6)}-{path.name}")
    try:
        yield draft
        with draft.open("rb+") as file:  # on the disk before it gets its name: a power cut must not leave half
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write all of a value of plain types, or nothing; null stands for a number that is not finite."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(finite(value), indent=1, allow_nan=False), encoding="utf-8")


def finite(value: Any) -> Any:
    """Return the same plain containers with None where a number is not finite: JSON has no word for it."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

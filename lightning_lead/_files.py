"""Files that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["UNFINISHED", "replacing"]

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

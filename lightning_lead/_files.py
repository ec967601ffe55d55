"""Files that are there whole or not at all: written beside their place, then renamed; and folders with one writer."""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

from lightning_lead._errors import BusyFolderError, StorageError

__all__ = ["UNFINISHED", "check_writable", "finite", "held", "replacing", "set_aside", "write_json"]

UNFINISHED = ".unfinished-"
"""What the names of files begin with that are not yet whole."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` if the block ends well, and vanishes otherwise.

    What killed writers have left in the folder is removed first.

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
    _remove_left_over(path.parent)
    draft = path.with_name(f"{UNFINISHED}{secrets.token_hex(6)}-{path.name}")
    with _locked_file(draft) as mark:  # by the lock others see that its writer is alive
        if os.name == "nt":
            mark.close()  # an open file keeps its name there
        try:
            yield draft
            with draft.open("rb+") as file:  # on the disk before it gets its name: a power cut must not leave half
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def _remove_left_over(folder: Path) -> None:
    """Remove drafts whose writers are gone; of a draft that cannot be locked nobody knows."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError), path.open("rb+") as file:  # not a folder, nor another user's
            if _lock(file):
                path.unlink()


def _locked_file(path: Path) -> IO[bytes]:
    """A new file, locked until it is closed."""
    while True:
        mark = path.open("xb")
        _lock(mark, wait=True)
        if path.exists():
            return mark
        mark.close()  # between the two another writer has taken it for one that was left over


def _lock(file: IO[bytes], *, wait: bool = False) -> bool:
    """Lock an open file, for as long as it is open in this process; False where it is locked, or cannot be."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):  # Windows has none
        return False
    return True


@contextmanager
def held(folder: Path, *, purpose: str) -> Iterator[None]:
    """The folder for one process at a time, made if there is none; the system frees it when the process ends.

    Args:
        folder: the folder.
        purpose: what it is wanted for, "write checkpoints to".

    Raises:
        BusyFolderError: another process holds it.
        StorageError: it cannot be made, or written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, held(Path(folder), purpose="write to"):
        ...     print((Path(folder) / ".holder").read_text().startswith(f"process {os.getpid()}"))
        True
    """
    from filelock import FileLock, Timeout  # comes with torch

    holder = folder / ".holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        with suppress(OSError):
            who = holder.read_text(encoding="utf-8")
            raise BusyFolderError(
                f"Cannot {purpose} {folder} because another process does; wait for it, end it, or choose another "
                f"folder (got {who})"
            ) from error
        raise BusyFolderError(f"Cannot {purpose} {folder} because another process does; try again") from error
    except OSError as error:
        raise StorageError(
            f"Cannot {purpose} {folder} because it cannot be written; choose another (got {error})"
        ) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def check_writable(path: Path) -> None:
    """Refuse, with a `StorageError`, a file that cannot be written: before the work that is to go into it."""
    if path.is_dir():
        raise StorageError(f"Cannot write to {path} because it is a folder; name a file in it")
    trial = path.with_name(f"{UNFINISHED}{secrets.token_hex(6)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise StorageError(
            f"Cannot write to {path} because its folder cannot be written; choose another (got {error})"
        ) from error


def set_aside(files: Iterable[Path]) -> Path | None:
    """Move files of one folder into "earlier.1" in it, or the first such one that is free; None without files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "last.ckpt").touch()
        ...     print(set_aside(Path(folder).glob("*.ckpt")).name)
        earlier.1
    """
    found = list(files)
    if not found:
        return None
    aside = next(path for k in count(1) if not (path := found[0].with_name(f"earlier.{k}")).exists())
    aside.mkdir()
    for file in found:
        file.rename(aside / file.name)
    return aside


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

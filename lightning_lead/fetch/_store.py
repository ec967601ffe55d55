"""The folder where fetched things are kept: complete or absent, and the same whoever writes it.

    $LIGHTNING_LEAD_HOME, else ~/.cache/lightning-lead
        cifar10/               train_images.npy …, manifest.json
        inception-2015-12-05/  weights.pt, manifest.json

A file is written under another name and then renamed, the manifest last: a folder with a manifest is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_lead._files import UNFINISHED, write_json

__all__ = ["FetchError", "damaged_files", "home", "install", "locked", "read_manifest", "sha256_of", "workshop"]

MANIFEST = "manifest.json"


class FetchError(RuntimeError):
    """Something that could not be fetched, or is not what it should be."""


def home() -> Path:
    """The folder of everything that is fetched: `$LIGHTNING_LEAD_HOME`, else `~/.cache/lightning-lead`.

    Example:
        >>> from unittest import mock
        >>> with mock.patch.dict("os.environ", LIGHTNING_LEAD_HOME="/data/lead"):
        ...     home().as_posix()
        '/data/lead'
    """
    chosen = os.environ.get("LIGHTNING_LEAD_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "lightning-lead"


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to work in, removed at the end; `locked` removes those of processes that were killed."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in this folder; the next one waits. What a killed process left unfinished is removed."""
    from filelock import FileLock  # comes with torch; the system frees the lock of a process that dies

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        raise FetchError(
            f"Cannot keep anything in {folder} because it cannot be written; set LIGHTNING_LEAD_HOME or pass another "
            f"folder (got {error})"
        ) from error
    try:
        for left in [*folder.glob(f"{UNFINISHED}*"), *folder.glob(f"*/{UNFINISHED}*")]:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def install(made: Path, folder: Path, names: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Move complete files to where they belong, and write the manifest that says so."""
    files = {name: {"sha256": sha256_of(made / name), "bytes": (made / name).stat().st_size} for name in names}
    (folder / MANIFEST).unlink(missing_ok=True)  # from here to the end there is no complete set
    for name in names:
        os.replace(made / name, folder / name)
    write_json(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete folder, or None. Sizes are compared, contents are not: see `damaged_files`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        if sizes != {name: entry["bytes"] for name, entry in manifest["files"].items()}:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(manifest)


def damaged_files(folder: Path) -> list[str]:
    """Names of the files whose sha256 is not that of the manifest."""
    manifest = read_manifest(folder)
    files = {} if manifest is None else manifest["files"]
    return [name for name, entry in files.items() if sha256_of(folder / name) != entry["sha256"]]

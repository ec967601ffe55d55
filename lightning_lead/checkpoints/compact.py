"""CompactCheckpointIO: a plugin by which the Trainer writes small checkpoints; `packing` says what they leave out."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, final

import torch
from fsspec.core import url_to_fs

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead.checkpoints._game import COMPACT
from lightning_lead.checkpoints._packing import pack, unpack
from lightning_lead.checkpoints._whole import WholeCheckpointIO

__all__ = ["CompactCheckpointIO"]


@final
class CompactCheckpointIO(WholeCheckpointIO):
    """A plugin by which the Trainer writes and reads compact checkpoints: `Trainer(plugins=[CompactCheckpointIO()])`.

    Every checkpoint of the Trainer is written so, by `ModelCheckpoint`, `SegmentCheckpoint` or by hand, and is resumed
    bit for bit by a Trainer that has the plugin. It reads ordinary checkpoints as well. The weights in a file are as
    ever, for `load_from_checkpoint`.

    A local file is written beside its place and then renamed, so a save that is cut short leaves the checkpoint before.

    Args:
        precision: "exact". Rounding by "half" is gone; such a checkpoint is still read.
        max_part_mib: None. Splitting into parts is gone; such a checkpoint is still read.

    Raises:
        ConfigurationError: another value of an argument that is gone.

    Example:
        >>> plugin = CompactCheckpointIO()
        >>> plugin.save_checkpoint({"state_dict": {}, "global_step": 5}, "memory://a.ckpt")
        >>> plugin.load_checkpoint("memory://a.ckpt", weights_only=True)["global_step"]
        5
    """

    def __init__(self, *, precision: str = "exact", max_part_mib: float | None = None) -> None:
        check_arguments(CompactCheckpointIO, locals())
        super().__init__()
        # the defaults pass, for they stand in the config.yaml of earlier runs
        if precision != "exact" or max_part_mib is not None:
            raise ConfigurationError(
                "Cannot round checkpoints or split them into parts because this version writes exact ones in one file; "
                f"leave out precision and max_part_mib (got {precision!r} and {max_part_mib!r})"
            )

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write what the Trainer dumps, without what can be made again."""
        super().save_checkpoint(pack(checkpoint), path, storage_options)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, compact or not.

        Args:
            path: of the checkpoint.
            map_location: see `torch.load`.
            weights_only: refuse anything but tensors and plain types; default Lightning's own.

        Raises:
            CheckpointMismatchError: it is in parts, as an earlier version wrote it, and one is missing or damaged.
        """
        settings = {} if weights_only is None else {"weights_only": weights_only}  # Lightning 2.5 does not know it
        return unpack(self._read(path, map_location, settings))

    def read_packed(self, path: Any) -> dict[str, Any]:
        """Read a checkpoint as it was stored, on the host, of plain tensors alone; `packing.unpack` makes it whole."""
        return self._read(path, "cpu", {"weights_only": True})

    def _read(self, path: Any, map_location: Any, settings: dict[str, bool]) -> dict[str, Any]:
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, **settings)
        index = checkpoint.get(COMPACT, {})
        if "parts" in index:
            content = io.BytesIO(_joined(Path(url_to_fs(str(path))[1]), index["parts"], index["sha256"]))
            checkpoint = torch.load(content, map_location=map_location, weights_only=True)
        return checkpoint


def _joined(path: Path, names: list[str], sha256: str) -> bytes:
    """Read the parts beside the file that names them, as an earlier version wrote them."""
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

"""CompactCheckpointIO: a plugin by which the Trainer writes small checkpoints, whole or in parts; see `packing`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, final

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_lead._errors import ConfigurationError
from lightning_lead.checkpoints._whole import local_path, read_parts, write_parts, write_whole
from lightning_lead.checkpoints.game import COMPACT
from lightning_lead.checkpoints.packing import PACKING, pack, unpack

__all__ = ["CompactCheckpointIO"]


@final
class CompactCheckpointIO(TorchCheckpointIO):
    """A plugin by which the Trainer writes and reads compact checkpoints: `Trainer(plugins=[CompactCheckpointIO()])`.

    Every checkpoint of the Trainer is written so, by `ModelCheckpoint`, `SegmentCheckpoint` or by hand, and is resumed
    by a Trainer that has the plugin, with any settings. It reads ordinary checkpoints as well. Without `max_part_mib`
    the weights in a file are as ever, for `load_from_checkpoint`.

    A local file is written beside its place and then renamed, so a save that is cut short leaves the checkpoint before.
    (Lightning's own writer begins in $TMPDIR, and copies from there if that is another file system.)

    Args:
        precision: "exact", which resumes bit for bit, or "half", which rounds moments and displacements; see `packing`.
        max_part_mib: largest size of a file, > 0, or None for one file. Parts lie beside the checkpoint, which names
            them and their sha256, and is written last; only then do the parts of the one before go.

    Raises:
        ConfigurationError: an unknown precision, or a size out of its range.

    Example:
        >>> io = CompactCheckpointIO(precision="half", max_part_mib=15)
        >>> io.precision, io.max_part_mib
        ('half', 15)
    """

    def __init__(self, *, precision: Literal["exact", "half"] = "exact", max_part_mib: float | None = None) -> None:
        super().__init__()
        if precision not in ("exact", "half"):
            raise ConfigurationError(f"Cannot store with precision={precision!r}; choose 'exact' or 'half'")
        if max_part_mib is not None and not max_part_mib > 0:
            raise ConfigurationError(f"Cannot split into parts of {max_part_mib!r} MiB; pass a number > 0, or None")
        self.precision, self.max_part_mib = precision, max_part_mib

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it; see the class.

        Args:
            checkpoint: as the Trainer dumps it.
            path: of the checkpoint; a local one where it is split.
            storage_options: must be None, as in Lightning's own plugin.
        """
        packed, place = pack(checkpoint, self.precision), local_path(path)
        if place is None and self.max_part_mib is not None:
            raise ConfigurationError(f"Cannot split {path} because it is not a local file; leave out max_part_mib")
        if place is None or storage_options is not None:
            super().save_checkpoint(packed, path, storage_options)
        elif self.max_part_mib is None:
            write_whole(place, packed)
        else:
            index = {key: checkpoint[key] for key in ("pytorch-lightning_version", "global_step") if key in checkpoint}
            write_parts(
                place,
                packed,
                size=max(1, int(self.max_part_mib * 2**20)),
                index=lambda parts: {COMPACT: {"version": PACKING, **parts}, **index},
                before=_parts_of(place),
            )

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of either kind.

        Args:
            path: of the checkpoint.
            map_location: see `torch.load`.
            weights_only: refuse anything but tensors and plain types; default Lightning's own.

        Raises:
            CheckpointMismatchError: a part is missing or damaged.
        """
        settings = {} if weights_only is None else {"weights_only": weights_only}  # Lightning 2.5 does not know it
        return unpack(self._read(path, map_location, settings))

    def read_packed(self, path: Any) -> dict[str, Any]:
        """A checkpoint as it was stored, on the host, of plain tensors alone; `packing.unpack` makes it whole.

        Args:
            path: of the checkpoint.

        Raises:
            CheckpointMismatchError: a part is missing or damaged.
        """
        return self._read(path, "cpu", {"weights_only": True})

    def _read(self, path: Any, map_location: Any, settings: dict[str, bool]) -> dict[str, Any]:
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, **settings)
        parts = checkpoint.get(COMPACT, {}).get("parts")
        if parts:
            content = read_parts(local_path(path) or Path(path), parts, checkpoint[COMPACT]["sha256"])
            checkpoint = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove it with its parts.

        Args:
            path: of the checkpoint.
        """
        place = local_path(path) or Path(path)
        parts = _parts_of(place)
        super().remove_checkpoint(path)
        for name in parts:
            place.with_name(name).unlink(missing_ok=True)


def _parts_of(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        index = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return []  # whatever it is, it names no parts
    return list(index.get(COMPACT, {}).get("parts", [])) if isinstance(index, dict) else []

"""Statistics of the reals on disk, so that the same reference passes the same network once, and never a stale one.

    folder = sha256 of (hash of every real image, network, resize, chunk, device, versions)

The images are hashed every time, before anything is read. A file also holds the features of the first two images, which
are compared with those that the network gives now: an extractor's code may change without its name or weights. Files
carry a digest of their own; one that is damaged, or another's, is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_lead._files import replacing
from lightning_lead.callbacks.fingerprints import tensors_hash
from lightning_lead.callbacks.ranks import broadcast_tensors, place
from lightning_lead.fetch.store import home

__all__ = ["WORTH_A_FILE", "StatisticsCache", "default_folder"]

FORMAT = 1
WORTH_A_FILE = 2**20
"""Numbers in the features of a reference from which on the default cache is used: fewer take a moment to compute."""

Statistics = dict[str, Tensor]


def default_folder() -> Path:
    """Where statistics are kept: "statistics" in $LIGHTNING_LEAD_HOME, or else in ~/.cache/lightning-lead.

    Example:
        >>> default_folder().name
        'statistics'
    """
    return home() / "statistics"


class StatisticsCache:
    """Statistics of one reference by one network; rank 0 reads and writes, and every rank gets the same.

    Args:
        folder: where folders of statistics lie; None keeps nothing.
        settings: everything that decides the statistics, as plain types.
        probe: features of the first images, (n, F), on every rank.
        tolerance: by which they may differ from those of another process, as a share of the largest.

    Attributes:
        key: 64 hexadecimal digits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = StatisticsCache(Path(folder), {"reference": "abc"}, torch.zeros(2, 3))
        ...     cache.save("features", {"features": torch.ones(4, 3)})
        ...     cache.load("features", torch.device("cpu"))["features"].shape
        torch.Size([4, 3])
    """

    def __init__(
        self, folder: Path | None, settings: Mapping[str, Any], probe: Tensor, *, tolerance: float = 1e-4
    ) -> None:
        self._settings = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
        self.key = hashlib.sha256(self._settings.encode()).hexdigest()
        self._folder = None if folder is None else folder / self.key
        self._probe, self._tolerance = probe.detach().float().cpu(), tolerance

    def load(self, kind: str, device: torch.device) -> Statistics | None:
        """What was saved, or None; all ranks must call it.

        Args:
            kind: the name of the statistic.
            device: where the tensors are to be.
        """
        if self._folder is None:
            return None
        return broadcast_tensors(self._read(kind) if place()[0] == 0 else None, device)

    def save(self, kind: str, tensors: Statistics) -> None:
        """Write all of it or nothing; a folder that cannot be written to costs a warning.

        Args:
            kind: the name of the statistic.
            tensors: the same on every rank; rank 0 writes.
        """
        if self._folder is None or place()[0] != 0:
            return
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = {"settings": self._settings, "probe": self._probe, "tensors": plain, "sha256": tensors_hash(plain)}
        try:
            with replacing(self._path(kind)) as draft:
                torch.save(content, draft)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            rank_zero_warn(
                f"The reference statistics are not cached because {self._path(kind)} cannot be written: {error}"
            )

    def _path(self, kind: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}.pt"

    def _read(self, kind: str) -> Statistics | None:
        path = self._path(kind)
        if not path.is_file():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            tensors: Statistics = content["tensors"]
            sound = content["settings"] == self._settings and content["sha256"] == tensors_hash(tensors)
            probe = content["probe"]
        except Exception as error:  # whatever a damaged file makes torch raise
            rank_zero_warn(f"The cached reference statistics {path} are damaged and computed again: {error}")
            return None
        if not sound:
            rank_zero_warn(f"The cached reference statistics {path} are damaged and computed again.")
            return None
        scale = float(self._probe.abs().max()) if self._probe.numel() else 0.0
        if probe.shape != self._probe.shape or not torch.allclose(
            probe, self._probe, rtol=0, atol=self._tolerance * scale
        ):
            rank_zero_warn(
                f"The cached reference statistics {path} are computed again: the extractor gives other features than "
                "the one that they are from, under the same name and weights. Give it a fingerprint of its own."
            )
            return None
        return tensors

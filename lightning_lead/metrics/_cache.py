"""Statistics of the reals on disk, so that the same reference passes the same network once, and never a stale one.

    folder = sha256 of (hash of every real image, network, resize, chunk, device, versions)

The images are hashed every time, before anything is read. A file also holds the features of the first two images, which
are compared with those that the network gives now: an extractor's code may change without its name or weights. Files
carry a digest of their own; one that is damaged, or another's, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_lead._distributed import broadcast_tensors, rank_and_world_size
from lightning_lead._files import replacing
from lightning_lead._hashing import tensors_hash
from lightning_lead.fetch._store import home
from lightning_lead.metrics.base import Statistics

__all__ = ["WORTH_A_FILE", "StatisticsCache", "cache_folder"]

FORMAT = 2
WORTH_A_FILE = 2**20
"""Numbers in the features of a reference from which on the default cache is used: fewer take a moment to compute."""


def cache_folder(cache: bool | str | Path, numbers: int) -> Path | None:
    """Return the folder of statistics, or None; True is the default one, if the features are enough numbers."""
    if cache is True:
        return home() / "statistics" if numbers >= WORTH_A_FILE else None
    return None if cache is False else Path(cache)


class StatisticsCache:
    """Statistics of one reference by one network; rank 0 reads and writes, and every rank gets the same."""

    def __init__(
        self, folder: Path | None, settings: Mapping[str, Any], probe: Tensor, *, tolerance: float = 1e-4
    ) -> None:
        self._settings = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
        self.key = hashlib.sha256(self._settings.encode()).hexdigest()
        self._folder = None if folder is None else folder / self.key
        self._probe, self._tolerance = probe.detach().float().cpu(), tolerance

    def load(self, kind: str, device: torch.device) -> Statistics | None:
        """Return what was saved under a name, or None; all ranks must call it."""
        if self._folder is None:
            return None
        return broadcast_tensors(self._read(kind) if rank_and_world_size()[0] == 0 else None, device)

    def save(self, kind: str, tensors: Statistics) -> None:
        """Write all of it or nothing, by rank 0; a folder that cannot be written to costs a warning."""
        if self._folder is None or rank_and_world_size()[0] != 0:
            return
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = {"settings": self._settings, "probe": self._probe, "tensors": plain, "sha256": tensors_hash(plain)}
        try:
            with replacing(self._path(kind)) as draft:
                torch.save(content, draft)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            warnings.warn(
                f"The reference statistics are not cached because {self._path(kind)} cannot be written: {error}",
                stacklevel=2,
            )

    def take(self, kind: str, device: torch.device, compute: Callable[[], Statistics]) -> Statistics:
        """Return what was saved, or else compute and save it; all ranks must call it."""
        statistics = self.load(kind, device)
        if statistics is None:
            statistics = compute()
            self.save(kind, statistics)
        return statistics

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
            _warn(path, f"damaged and computed again: {error}")
            return None
        if not sound:
            _warn(path, "damaged and computed again.")
            return None
        scale = float(self._probe.abs().max()) if self._probe.numel() else 0.0
        atol = self._tolerance * scale
        if probe.shape == self._probe.shape and torch.allclose(probe, self._probe, rtol=0, atol=atol):
            return tensors
        _warn(
            path,
            "computed again: the extractor gives other features than the one that they are from, under the same name "
            "and weights. Give it a fingerprint of its own.",
        )
        return None


def _warn(path: Path, why: str) -> None:
    warnings.warn(f"The cached reference statistics {path} are {why}", stacklevel=2)

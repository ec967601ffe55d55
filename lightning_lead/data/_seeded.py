"""A dataset whose random transforms give a batch the same samples, whoever loads it and whenever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch.utils.data import Dataset

from lightning_lead.calculus._rng import mix_seed, private_rng

__all__ = ["SeededBatches"]


@final
class SeededBatches(Dataset[Any]):
    """A dataset whose batches draw from torch's, Python's and numpy's generators as a function of (seed, epoch, batch).

    Workers of a loader seed theirs once and draw on, so a resumed run would draw what the first batches drew. A batch
    is asked for by indices that hold the epoch, as `EpochSampler` has them; it is known by its first one, which no
    other batch of any rank has. A single sample is the dataset's own. All else is asked of the dataset, `original`.

    Args:
        dataset: with a length.
        seed: any integer.
    """

    indexed_by_epoch = True
    epoch_stride = 2**40
    """Indices of an epoch begin at its multiples, so the number of samples may change while they are read."""

    def __init__(self, dataset: Any, seed: int) -> None:
        vars(self).update(original=dataset, _seed=seed)

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, index: int) -> Any:
        return self.original[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        own = [index % self.epoch_stride for index in indices]
        with private_rng(mix_seed(self._seed, indices[0])):
            together = getattr(self.original, "__getitems__", None)
            return together(own) if together else [self.original[index] for index in own]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "original":  # a copy is asked for its methods before it holds anything
            raise AttributeError(name)
        return getattr(self.original, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.original, name, value)  # as a transform that is exchanged

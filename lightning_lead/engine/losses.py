"""The losses of one micro-batch, evaluated as often as a rule asks by the same random numbers; buffers move once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point
from lightning_lead.calculus._rng import PrivateNoise
from lightning_lead.calculus.replay import SpectralRecord, frozen_buffers
from lightning_lead.engine._batches import batch_size, cut_batch

__all__ = ["BatchLosses"]


class BatchLosses:
    """Both players' losses on one micro-batch, in the form in which `GameOracle` takes them.

    Args:
        module: that holds both players; its buffers and spectral norms are kept where an evaluation is a replay.
        losses: (batch, names of the wanted losses) -> name -> scalar, a mean over the batch.
        batch: the micro-batch.
        seed: of everything random inside.
        noise: the source of random numbers that the losses draw from.
        repeated: True if the first evaluation will be replayed, so that what it used has to be kept.

    Example:
        >>> import torch
        >>> from lightning_lead.calculus import PrivateNoise
        >>> net = nn.Linear(2, 1)
        >>> losses = BatchLosses(
        ...     net, lambda batch, wanted: {"x": net(batch + torch.randn(4, 2)).mean()}, torch.ones(4, 2), 7,
        ...     noise=PrivateNoise(), repeated=True,
        ... )
        >>> first = losses({}, frozenset({"x"}), replay=False)["x"]
        >>> torch.equal(first, losses({}, frozenset({"x"}), replay=True)["x"])
        True
    """

    def __init__(
        self,
        module: nn.Module,
        losses: Callable[[Any, frozenset[str]], Mapping[str, Tensor]],
        batch: Any,
        seed: int,
        *,
        noise: PrivateNoise,
        repeated: bool,
    ) -> None:
        self._module, self._losses, self._batch, self._seed = module, losses, batch, seed
        self._noise, self._repeated = noise, repeated
        self._record = SpectralRecord()

    @contextmanager
    def evaluation(self, *, replay: bool) -> Iterator[None]:
        """Seed the random numbers; in a replay, freeze buffers and use the singular vectors of the first evaluation.

        Args:
            replay: True for every evaluation but the first.
        """
        with self._noise.seeded(self._seed):
            if replay:
                with frozen_buffers(self._module), self._record.replaying(self._module):
                    yield
            elif self._repeated:
                with self._record.recording(self._module):
                    yield
            else:
                yield

    def part(self, fraction: float) -> BatchLosses:
        """Return the losses on the first samples; every evaluation of them is a replay.

        Args:
            fraction: of the samples, in (0, 1]; at least one is taken.
        """
        size = batch_size(self._batch)
        few = cut_batch(self._batch, size, 0, max(1, math.ceil(fraction * size)))
        part = BatchLosses(self._module, self._losses, few, self._seed, noise=self._noise, repeated=self._repeated)
        part._record = self._record
        return part

    def __call__(self, point: Point, wanted: frozenset[str], *, replay: bool) -> Mapping[str, Tensor]:
        """Evaluate the wanted losses at the point, which the oracle has swapped into the module."""
        with self.evaluation(replay=replay):
            values = self._losses(self._batch, wanted)
        if missing := wanted - set(values):
            raise ConfigurationError(
                f"Cannot play because player_losses() returned no loss for {sorted(missing)}; "
                f"return one scalar per player (got {sorted(values)})"
            )
        return values

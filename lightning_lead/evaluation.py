"""One micro-batch, looked at as often as a rule likes: the same data, the same random numbers, buffers moved once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._typing import Point
from lightning_lead.calculus.noise import SpectralRecord, frozen_buffers
from lightning_lead.turns import batch_size, cut_batch

if TYPE_CHECKING:
    from lightning_lead.mixin import LeadMixin

__all__ = ["Evaluation"]


class Evaluation:
    """The losses of a module on one micro-batch, as the oracle asks for them.

    Args:
        module: whose `wanted_losses` are evaluated.
        batch: the micro-batch.
        seed: of everything random inside.
        repeated: whether the first evaluation will be repeated, so that what it used has to be kept.
    """

    def __init__(self, module: LeadMixin, batch: Any, seed: int, *, repeated: bool) -> None:
        self._module, self._batch, self._seed, self._repeated = module, batch, seed, repeated
        self._record = SpectralRecord()

    @contextmanager
    def look(self, *, replay: bool) -> Iterator[None]:
        """One evaluation: what a replay draws and normalises by is what the first one did.

        Args:
            replay: leave every buffer as it is, and use the recorded singular vectors.
        """
        module, record = self._module, self._record
        with module.private_noise(self._seed):
            if replay:
                with frozen_buffers(module), record.replaying(module):
                    yield
            elif self._repeated:
                with record.recording(module):
                    yield
            else:
                yield

    def part(self, fraction: float) -> Evaluation:
        """The same losses on the first samples alone, for a repeat: singular vectors are the recorded ones.

        Args:
            fraction: of the samples, in (0, 1]; at least one is taken.
        """
        size = batch_size(self._batch)
        few = cut_batch(self._batch, size, 0, max(1, math.ceil(fraction * size)))
        part = Evaluation(self._module, few, self._seed, repeated=self._repeated)
        part._record = self._record
        return part

    def __call__(self, point: Point, wanted: frozenset[str], *, replay: bool) -> Mapping[str, Tensor]:
        """The wanted losses at the point that is placed in the module."""
        with self.look(replay=replay):
            values = self._module.wanted_losses(self._batch, wanted)
        if missing := wanted - set(values):
            raise ConfigurationError(
                f"Cannot play because player_losses() returned no loss for {sorted(missing)}; "
                f"return one scalar per player (got {sorted(values)})"
            )
        return values

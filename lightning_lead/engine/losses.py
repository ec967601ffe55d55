"""The losses of one micro-batch, evaluated as often as a rule asks by the same random numbers.

Buffers move in the first evaluation: those of both networks, in every turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point
from lightning_lead.calculus._rng import PrivateNoise
from lightning_lead.calculus.replay import ForwardRecord
from lightning_lead.engine._batches import batch_size, cut_batch, tensors_of

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
        check_arguments(BatchLosses, locals())
        self._module, self._losses, self._batch, self._seed = module, losses, batch, seed
        self._noise, self._repeated = noise, repeated
        self._record = ForwardRecord()
        self.scale = 1.0
        """The factor of all losses that are returned, against underflow in fp16; the oracle divides by it."""
        self._names = frozenset[str]()  # of the losses that were last asked for
        self._seen = set[str]()  # those that were evaluated

    @contextmanager
    def evaluation(self, *, replay: bool, repeat: bool | None = None) -> Iterator[None]:
        """Seed the random numbers; in a replay, begin with the buffers of the first evaluation, and move none.

        Args:
            replay: True for every evaluation but the first.
            repeat: False for a replay that is the first evaluation of a loss, as of the second player's in simultaneous
                play; the module's `is_repeat`.

        Raises:
            ConfigurationError: the losses have written into the batch.
        """
        versions = _versions(tensors_of(self._batch))
        with self._noise.seeded(self._seed):
            if replay:
                with (
                    self._record.replaying(self._module),
                    _repeating(self._module, replay if repeat is None else repeat),
                ):
                    yield
            elif self._repeated:
                with self._record.recording(self._module):
                    yield
            else:
                yield
        if versions != _versions(tensors_of(self._batch)):
            raise ConfigurationError(
                "Cannot go on because the losses write into the batch, which later turns and evaluations read as well; "
                f"let {self._writer()} leave its input as it is: x = x + noise, not x += noise; x.clamp(), not "
                "x.clamp_()"
            )

    def _writer(self) -> str:
        """Name the layer that writes into the batch, by one evaluation more: the run ends anyway."""
        tensors, found = list(tensors_of(self._batch)), list[str]()
        before, handles = dict[nn.Module, list[int]](), []
        for name, layer in self._module.named_modules():

            def enter(layer: nn.Module, *_: object) -> None:
                before[layer] = _versions(tensors)

            def leave(layer: nn.Module, *_: object, name: str = name) -> None:
                if before[layer] != _versions(tensors):
                    found.append(f"{name} ({type(layer).__name__})")

            handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
        try:
            self._losses(self._batch, self._names)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else "the code of the losses"  # the innermost layer leaves first

    def part(self, fraction: float) -> BatchLosses:
        """Return the losses on the first samples; every evaluation of them is a replay.

        Args:
            fraction: of the samples, in (0, 1]; at least one is taken.
        """
        size = batch_size(self._batch)
        few = cut_batch(self._batch, size, 0, max(1, math.ceil(fraction * size)))
        part = BatchLosses(self._module, self._losses, few, self._seed, noise=self._noise, repeated=self._repeated)
        part._record, part.scale = self._record, self.scale
        return part

    def __call__(self, point: Point, wanted: frozenset[str], *, replay: bool) -> Mapping[str, Tensor]:
        """Evaluate the wanted losses at the point, which the oracle has swapped into the module."""
        self._names = wanted
        with self.evaluation(replay=replay, repeat=replay and wanted <= self._seen):
            values = self._losses(self._batch, wanted)
        _check_losses(values, wanted)
        self._seen |= set(values)
        return {name: self.scaled(value) for name, value in values.items()}

    def scaled(self, value: Tensor) -> Tensor:
        """A loss times the scale, in at least float32."""
        return value if self.scale == 1.0 else value.to(torch.promote_types(value.dtype, torch.float32)) * self.scale


def _check_losses(values: Any, wanted: frozenset[str]) -> None:
    """Refuse what does not hold a tensor for each name."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            "Cannot play because player_losses() returned no losses by name; "
            f"return {{name: scalar loss}} for {sorted(wanted)} (got {type(values).__name__})"
        )
    if missing := wanted - set(values):
        raise ConfigurationError(
            f"Cannot play because player_losses() returned no loss for {sorted(missing)}; "
            f"return one scalar per player (got {sorted(values)})"
        )
    if wrong := {name: type(values[name]).__name__ for name in sorted(wanted) if not isinstance(values[name], Tensor)}:
        raise ConfigurationError(
            f"Cannot play because losses are no tensors; return them with their graph, not .item() (got {wrong})"
        )


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """Count how often each tensor was written to; one of inference mode is not counted."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


@contextmanager
def _repeating(module: Any, repeats: bool = True) -> Iterator[None]:
    """Tell a module that has `is_repeat`, as `LeadMixin` does, that its losses are evaluated again."""
    before = getattr(module, "is_repeat", None)
    if before is None or not repeats:
        yield
        return
    module.is_repeat = True
    try:
        yield
    finally:
        module.is_repeat = before

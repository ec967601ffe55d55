"""The oracle of players of whose parameters every rank holds a part, as FSDP2 (`fully_shard`) leaves them.

A gradient is taken by `backward()`: FSDP's hooks reduce what it leaves on whole parameters, once, and the sum of the
ranks' parts, divided by their number R, arrives in `.grad` of the parts. So a rank's loss is weighed by

    n_r R / Σ_r n_r        (n_r: rank r's batch size)

and the result is that of the joint batch. Opponents require no gradient meanwhile: nothing of theirs is computed or
reduced. To evaluate elsewhere than where the players are, their parts take the other values in place, for as long.

No gradient is differentiated: FSDP gathers parameters outside of autograd and frees them as soon as one reverse pass
has gone by, so there is no graph from a gradient back to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError, DifferentiationError
from lightning_lead._sharding import everywhere, is_sharded, local_part, reshard, sharded_like
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._general import part_of
from lightning_lead.calculus._graph import LossGraph
from lightning_lead.calculus._players import (
    joined,
    moved_back,
    norm,
    opponents_of,
    parted,
    weighted_sum,
    zeros_for_none,
)
from lightning_lead.calculus._terms import (
    CrossTerm,
    HessianTerm,
    Losses,
    OracleStatistics,
    average_statistics,
    cross_statistics,
    divided,
)
from lightning_lead.calculus.oracle import GameOracle

__all__ = ["ShardedOracle", "ShardedSwap"]


class ShardedSwap:
    """A context in which sharded parameters hold the values of another point; see `Swap` for whole ones.

    The values are written into the parts that the parameters are made of, because FSDP's forward gathers those, and
    puts what it has gathered into the slots. Afterwards the old values are written back.
    """

    def __init__(self, players: Mapping[str, Sequence[Tensor]]) -> None:
        self._players = players
        self._open = False

    @contextmanager
    def __call__(self, point: Point) -> Iterator[None]:
        """Hold the players at a point; contexts cannot be nested."""
        if self._open:
            raise ConfigurationError(
                "Cannot save a checkpoint in the middle of a loss, because sharded parameters may hold the values of "
                "another point there; save it in a hook of the game step or of a batch"
            )
        before: list[tuple[Tensor, Tensor]] = []
        self._open = True
        try:
            with torch.no_grad():
                for player, vector in point.items():
                    for parameter, tensor in zip(self._players[player], vector, strict=True):
                        held, value = local_part(parameter), local_part(sharded_like(tensor, parameter))
                        if held.data_ptr() != value.data_ptr():
                            before.append((held, held.clone()))
                            held.copy_(value)
            yield
        finally:
            with torch.no_grad():
                for held, value in before:
                    held.copy_(value)
            self._open = False


class ShardedOracle(GameOracle):
    """Gradients of players whose parameters are sharded, and differences of them; no second derivatives.

    Norms in the statistics are those of the joint batch's gradients, because no rank has a whole one of its own.

    Args:
        point: see `GameOracle`.
        losses: see `GameOracle`.
        live: name -> the players' sharded parameters.
        units: what `fully_shard` was called on, of all players.
        share: n_r R / Σ n_r, a scalar.
        settings: the rest of `GameOracle`'s.
    """

    def __init__(
        self,
        point: Point,
        losses: Sequence[Losses],
        *,
        live: Mapping[str, Sequence[Tensor]],
        units: Sequence[Any],
        share: Tensor,
        **settings: Any,
    ) -> None:
        super().__init__(point, losses, **settings)
        self._losses, self._live, self._units, self._share = list(losses), live, units, share
        for player in self.names:
            self.graphs.setdefault(player, LossGraph(True, True))

    def gradient(
        self, player: str, *, at: Point | None = None, cross: CrossTerm | None = None, replay: bool | None = None
    ) -> Vector:
        """∇_i L_i of the joint batch, plus a cross term in difference form if asked; see `GameOracle.gradient`."""
        if cross is not None and cross.form != "difference":
            raise _no_second_derivative()
        self.evaluations["gradients"] += 1 if cross is None else 2
        replay = at is not None if replay is None else replay
        point = dict(self.point if at is None else at)
        exactly = self._contexts.full_float32 if cross is not None else self._contexts.full_precision
        grad, parts = self._evaluate(player, point, self._losses, replay=replay, contexts=(cross is not None, exactly))
        if cross is None:
            direction = grad
            size = norm(grad) if self._inspect else None
            found = average_statistics([(w, OracleStatistics(loss, None, None, None)) for w, loss in parts])
            statistics = found._replace(gradient_norm=size)
        else:
            losses, now = self._losses, grad
            if cross.fraction < 1:
                losses = [part_of(each, cross.fraction) for each in self._losses]
                now, _ = self._evaluate(player, point, losses, replay=True, contexts=(True, exactly))
            others = opponents_of(player, self.names)
            earlier = parted(moved_back(joined(point, others), cross.displacement), point, others)
            before, _ = self._evaluate(player, point | earlier, losses, replay=True, contexts=(True, exactly))
            term = weighted_sum([(1.0, now), (-1.0, before)])
            direction = weighted_sum([(1.0, grad), (cross.weight, term)])
            loss = torch.stack([w * loss for w, loss in parts]).sum()
            statistics = OracleStatistics(loss, None, None, None)
            if self._inspect:
                statistics = cross_statistics(loss, grad, term)
        if not replay:
            self.statistics[player] = statistics
        return direction

    def hessian_product(self, player: str, terms: Sequence[HessianTerm], *, at: Point | None = None) -> Vector:
        """Refuse; see the module's head."""
        raise _no_second_derivative()

    def interacts(self, player: str) -> bool:
        """Return True if the player's loss is another number where its opponents are elsewhere, on any rank."""
        others = opponents_of(player, self.names)
        elsewhere = {name: tuple(1.25 * p + 0.125 for p in self.point[name]) for name in others}
        values = []
        for point in (self.point, self.point | elsewhere):
            with torch.no_grad(), self._held(player, point):
                values.append(self._losses[0](point, frozenset({player}), replay=True)[player].detach())
        return not everywhere((values[0] == values[1]).all())

    def _evaluate(
        self, player: str, point: Point, losses: Sequence[Losses], *, replay: bool, contexts: tuple[bool, Any]
    ) -> tuple[Vector, list[tuple[float, Tensor]]]:
        """The gradient at a point, and each micro-batch's weight and loss; with a difference the forward is exact too.

        Of several micro-batches FSDP adds up the whole gradients, and reduces their sum after the last.
        """
        forward_too, exactly = contexts
        parameters = self._live[player]
        values: list[tuple[float, Tensor]] = []
        with torch.enable_grad(), self._held(player, point):
            for k, weight in enumerate(self._weights):
                for unit in self._units:  # what a penalty differentiates is differentiated once more
                    unit.set_reshard_after_backward(False, recurse=False)
                again = replay or k in self._evaluated
                if not replay:
                    self._evaluated.add(k)
                with exactly() if forward_too else nullcontext():
                    loss = losses[k](point, frozenset({player}), replay=again)[player]
                _check_loss(loss, player)
                for unit in self._units:
                    # one that a penalty has left whole is needed until the end, others are gathered layer by layer
                    unit.set_reshard_after_backward(all(map(is_sharded, unit.parameters())), recurse=False)
                    unit.set_requires_gradient_sync(k == len(self._weights) - 1, recurse=False)
                with exactly():
                    (loss * (weight * self._share).to(loss.dtype)).backward()
                values.append((weight, loss.detach()))
            grads = tuple(p.grad for p in parameters)
            if all(g is None for g in grads):
                raise DifferentiationError(
                    f"Cannot differentiate the loss of player {player!r} because it depends on none of its parameters; "
                    "check that the player's output reaches it and is not detached"
                )
        scale = self._scales[0]  # one for all micro-batches of a turn
        found = divided(tuple(g.detach() for g in zeros_for_none(grads, tuple(parameters))), scale)
        return found, [(weight, loss / scale) for weight, loss in values]

    @contextmanager
    def _held(self, player: str, point: Point) -> Iterator[None]:
        """Hold all players at a point, and let the player alone require gradients."""
        reshard(self._units)  # what a forward has left whole would not see other values, or who requires a gradient
        own = {id(p) for p in self._live[player]}
        every = [p for unit in self._units for p in unit.parameters()]
        others = [p for p in every if p.requires_grad and id(p) not in own]
        for parameter in (p for parameters in self._live.values() for p in parameters):
            parameter.grad = None
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            with self._contexts.swap(point):
                yield
        finally:
            reshard(self._units)
            for unit in self._units:
                unit.set_reshard_after_backward(True, recurse=False)
                unit.set_requires_gradient_sync(True, recurse=False)
            for parameter in others:
                parameter.requires_grad_(True)
            for parameter in self._live[player]:
                parameter.grad = None


def _check_loss(loss: Tensor, player: str) -> None:
    if loss.dim() != 0:
        raise DifferentiationError(
            f"Cannot differentiate the loss of player {player!r} because it is not a scalar; return its mean "
            f"(got shape {tuple(loss.shape)})"
        )
    if not loss.requires_grad:
        raise DifferentiationError(
            f"Cannot differentiate the loss of player {player!r} because it depends on no parameter that is trained; "
            "check that the player's output reaches it and is not detached"
        )


def _no_second_derivative() -> ConfigurationError:
    return ConfigurationError(
        "Cannot differentiate a gradient of sharded parameters because FSDP gathers them outside of autograd, and "
        "frees them after one reverse pass; use strategy='ddp', or a rule that differentiates once"
    )

"""Derivatives of any two losses, taken of each as a whole: gradients, double backward, and differences of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import torch
from torch import Tensor

from lightning_lead._errors import DifferentiationError
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.calculus._players import opponent_of, weighted_sum
from lightning_lead.calculus._terms import CrossTerm, Direction, Divisible, HessianTerm, Losses
from lightning_lead.calculus.derivatives import cross_term, gradient, hessian_product

__all__ = ["GeneralDerivatives"]


class GeneralDerivatives:
    """The backend of one micro-batch that assumes nothing of the losses.

    Attributes:
        by_backward: take gradients by `backward()`, as reentrant checkpointing asks; see `derivatives.gradient`.
    """

    def __init__(
        self,
        losses: Losses,
        names: Sequence[str],
        *,
        swap: Callable[[Point], AbstractContextManager[object]],
        full_precision: Callable[[], AbstractContextManager[object]],
        exhaustive: bool = False,
    ) -> None:
        self._losses, self._names, self._swap, self._full_precision = losses, tuple(names), swap, full_precision
        self._exhaustive = exhaustive
        self.by_backward = False

    def direction(
        self, player: str, point: Point, cross: CrossTerm | None, *, replay: bool, current: bool = False
    ) -> Direction:
        """g_i + weight·c_i at a point; c_i of the leading samples alone if it asks for a fraction."""
        exact = cross is not None and cross.form != "difference"
        subtracts = cross is not None and not exact
        opponent = opponent_of(player, self._names) if len(self._names) > 1 else player  # descent knows no opponent
        own = tuple(p.detach().requires_grad_() for p in point[player])
        other = tuple(p.detach().requires_grad_(exact) for p in point[opponent])
        divided = cross is not None and cross.fraction < 1
        wanted = frozenset({player, opponent} if cross is not None and cross.form == "opponent" else {player})
        # a difference of gradients needs the forward in full precision too
        forward: Callable[[], AbstractContextManager[object]] = self._precise if subtracts else nullcontext
        reverse = self._precise if subtracts else self._full_precision
        label = f"the loss of player {player!r}"
        here = self._ordered(player, own, other)
        losses = self._losses
        with torch.enable_grad(), self._swap(here):
            with forward():
                values = losses(here, frozenset({player}) if divided else wanted, replay=replay)
            with reverse():
                keep = exact and not divided
                grad = gradient(values[player], own, retain_graph=keep, by_backward=self.by_backward, label=label)
            now, loss = grad, values[player].detach()
            if divided and cross is not None:
                losses = _part(losses, cross.fraction)
                with forward():
                    values = losses(here, wanted, replay=True)
                    if not exact:
                        now = gradient(values[player], own, by_backward=self.by_backward, label=label)
            if cross is None:
                grad = tuple(g.detach() for g in grad)
                return Direction(grad, loss, grad, None)
            with reverse():
                if exact:
                    term = self._exact(player, opponent, values, own, other, cross)
                else:
                    term = self._difference(player, losses, own, other, now, cross)
        grad = tuple(g.detach() for g in grad)
        return Direction(weighted_sum([(1.0, grad), (cross.weight, term)]), loss, grad, term)

    def hessian_product(self, player: str, point: Point, terms: Sequence[HessianTerm]) -> Vector:
        """Σ (∂²L_loss / ∂θ_player ∂θ_column) · vector, in one double backward pass of a replay."""
        here = {name: tuple(p.detach().requires_grad_() for p in point[name]) for name in self._names}
        with torch.enable_grad(), self._swap(here):
            values = self._losses(here, frozenset(term.loss for term in terms), replay=True)
            with self._full_precision():
                return hessian_product(values, here, here[player], terms)

    def interacts(self, player: str, point: Point) -> bool:
        """True if the loss depends on the opponent, also where that is detached; by replays that leave no trace."""
        opponent = opponent_of(player, self._names)
        here = {name: tuple(p.detach().requires_grad_() for p in vector) for name, vector in point.items()}
        with torch.enable_grad(), self._swap(here):
            loss = self._losses(here, frozenset({player}), replay=True)[player]
            with suppress(DifferentiationError):
                gradient(loss, here[opponent], by_backward=self.by_backward)
                return True
        # far enough for every precision; a loss that is not the same number twice gets the benefit of the doubt
        here[opponent] = tuple((1.25 * p.detach() + 0.125).requires_grad_() for p in here[opponent])
        with torch.enable_grad(), self._swap(here):
            elsewhere = self._losses(here, frozenset({player}), replay=True)[player]
        return not torch.equal(loss.detach(), elsewhere.detach())

    def _exact(
        self, player: str, opponent: str, values: Mapping[str, Tensor], own: Vector, other: Vector, cross: CrossTerm
    ) -> Vector:
        """c_i = ∓∇_i ⟨∇_j L, Δ_j⟩, L being the opponent's loss or the own one."""
        of, sign = (opponent, -1.0) if cross.form == "opponent" else (player, 1.0)
        label = f"the gradient of {of!r}'s loss with respect to {opponent!r}"
        field = gradient(values[of], other, create_graph=True, label=label)
        product = cross_term(field, own, cross.displacement, label=label, exhaustive=self._exhaustive)
        return weighted_sum([(sign, product)])

    def _difference(
        self, player: str, losses: Losses, own: Vector, other: Vector, grad: Vector, cross: CrossTerm
    ) -> Vector:
        """c_i = g_i now minus g_i against the opponent as it was."""
        before = tuple((p - d.to(p.dtype)).detach() for p, d in zip(other, cross.displacement, strict=True))
        here = self._ordered(player, own, before)
        with self._swap(here):
            values = losses(here, frozenset({player}), replay=True)
            label = f"the loss of player {player!r} against the earlier opponent"
            earlier = gradient(values[player], own, by_backward=self.by_backward, label=label)
        return weighted_sum([(1.0, grad), (-1.0, earlier)])

    @contextmanager
    def _precise(self) -> Iterator[None]:
        with self._full_precision(), full_float32():
            yield

    def _ordered(self, player: str, own: Vector, other: Vector) -> dict[str, Vector]:
        return {name: own if name == player else other for name in self._names}


def _part(losses: Losses, fraction: float) -> Losses:
    if not isinstance(losses, Divisible):
        raise DifferentiationError(
            "Cannot take a cross term on a fraction of the batch because the losses cannot be evaluated on a part of "
            f"it; give them a method part(fraction), or use the whole batch (got fraction {fraction})"
        )
    return losses.part(fraction)

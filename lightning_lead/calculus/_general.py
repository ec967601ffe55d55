"""Derivatives of any two losses, taken of each as a whole: gradients, double backward, and differences of gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import torch
from torch import Tensor

from lightning_lead._errors import DifferentiationError
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._graph import LossGraph, read_graph
from lightning_lead.calculus._players import joined, leaves_of, moved_back, opponents_of, parted, weighted_sum
from lightning_lead.calculus._terms import COUPLED, Contexts, CrossTerm, Direction, Divisible, HessianTerm, Losses
from lightning_lead.calculus._third import refuse_wrong_norms
from lightning_lead.calculus.derivatives import cross_term, gradient, hessian_product

__all__ = ["GeneralDerivatives", "part_of"]


class GeneralDerivatives:
    """The backend of one micro-batch that assumes nothing of the losses.

    `graphs` is what is known of each player's loss; a player that it lacks gets an entry at its first gradient. With
    `joint`, plain gradients of both players at one point come from one evaluation. With `lenient`, a loss that reaches
    the opponent through a detach has no cross term, and a warning says so; otherwise it is an error.
    """

    def __init__(
        self,
        losses: Losses,
        names: Sequence[str],
        contexts: Contexts,
        *,
        graphs: dict[str, LossGraph],
        exhaustive: bool = False,
        joint: bool = False,
        lenient: bool = False,
    ) -> None:
        self._losses, self._names, self._contexts, self._exhaustive = losses, tuple(names), contexts, exhaustive
        self._graphs, self._joint, self._lenient = graphs, joint, lenient
        self._kept: tuple[Point, dict[str, Direction]] = {}, {}  # directions that were found with another player's

    def direction(
        self, player: str, point: Point, cross: CrossTerm | None, *, replay: bool, current: bool = False
    ) -> Direction:
        """g_i + weight·c_i at a point; c_i of the leading samples alone if it asks for a fraction."""
        if self._joint and cross is None and current:
            return self._jointly(player, point, replay=replay)
        exact = cross is not None and cross.form != "difference"
        subtracts = cross is not None and not exact
        divided = cross is not None and cross.fraction < 1
        others = joined(point, opponents_of(player, self._names))  # of a player that is alone none
        # the opponents' too, for a loss that takes a derivative by them; not where `backward()` would take one
        own, other = leaves_of(point[player]), leaves_of(others, requires_grad=not self._backward_of(player))
        wanted = frozenset(self._names if cross is not None and cross.form == "opponent" else {player})
        # a difference of gradients needs the forward in full precision too
        contexts, losses = self._contexts, self._losses
        forward: Callable[[], AbstractContextManager[object]] = contexts.full_float32 if subtracts else nullcontext
        reverse = contexts.full_float32 if subtracts else contexts.full_precision
        here = self._ordered(player, own, other, point)
        with torch.enable_grad(), contexts.swap(here):
            with forward():
                values = losses(here, frozenset({player}) if divided else wanted, replay=replay)
            with reverse():
                # an exact term of the whole batch is taken from the graph of the same forward
                grad = self._gradient(player, values, own, other, retain_graph=exact and not divided)
            now, loss = grad, values[player].detach()
            if cross is None:
                return Direction(tuple(g.detach() for g in grad), loss)
            if divided:  # the term is of a part alone, so the part is evaluated by itself, as a replay
                losses = part_of(losses, cross.fraction)
                with forward():
                    values = losses(here, wanted, replay=True)
                    if not exact:
                        now = self._gradient(player, values, own, other)
            with reverse():
                if exact:
                    term = self._exact(player, values, here, cross)
                else:
                    term = self._difference(player, losses, here, now, cross)
        grad = tuple(g.detach() for g in grad)
        return Direction(weighted_sum([(1.0, grad), (cross.weight, term)]), loss, grad, term)

    def _jointly(self, player: str, point: Point, *, replay: bool) -> Direction:
        """g_i, and the other players', which are kept until they are asked for, from one evaluation of all losses."""
        at, kept = self._kept
        if player in kept and all(point[name] is at[name] for name in self._names):
            return kept.pop(player)
        here = {name: leaves_of(point[name]) for name in self._names}
        found: dict[str, Direction] = {}
        with torch.enable_grad(), self._contexts.swap(here):
            values = self._losses(here, frozenset(self._names), replay=replay)
            with self._contexts.full_precision():
                for left, name in reversed(list(enumerate(self._names))):
                    other = joined(here, opponents_of(name, self._names))
                    grad = self._gradient(name, values, here[name], other, retain_graph=left > 0)
                    found[name] = Direction(tuple(g.detach() for g in grad), values[name].detach())
                    for leaf in (leaf for leaves in here.values() for leaf in leaves):
                        leaf.grad = None  # `backward()` fills those of the other players as well
        self._kept = point, found
        return found.pop(player)

    def hessian_product(self, player: str, point: Point, terms: Sequence[HessianTerm]) -> Vector:
        """Σ (∂²L_loss / ∂θ_player ∂θ_column) · vector, in one double backward pass of a replay."""
        here = {name: leaves_of(point[name]) for name in self._names}
        with torch.enable_grad(), self._contexts.swap(here):
            values = self._losses(here, frozenset(term.loss for term in terms), replay=True)
            for loss, column in {(term.loss, term.column) for term in terms}:
                refuse_wrong_norms(values[loss], f"the loss of player {loss!r}", here[player], here[column])
            with self._contexts.full_precision():
                return hessian_product(values, here, here[player], terms)

    def interacts(self, player: str, point: Point, *, on: Sequence[str] | None = None) -> bool:
        """True if the loss depends on an opponent, also where that is detached; by replays that leave no trace.

        `on` names the opponents that are looked at; by default all.
        """
        opponents = opponents_of(player, self._names) if on is None else on
        here = {name: leaves_of(vector) for name, vector in point.items()}
        with torch.enable_grad(), self._contexts.swap(here):
            values = self._losses(here, frozenset({player}), replay=True)
            with suppress(DifferentiationError):
                gradient(values[player], joined(here, opponents), by_backward=self._backward_of(player))
                return True
        # No gradient: is the loss another number where the opponent stands elsewhere? The step is far enough for every
        # precision. A loss that is not the same number twice, as nan, counts as dependent.
        for name in opponents:
            here[name] = tuple((1.25 * p.detach() + 0.125).requires_grad_() for p in here[name])
        with torch.enable_grad(), self._contexts.swap(here):
            elsewhere = self._losses(here, frozenset({player}), replay=True)
        return not torch.equal(values[player].detach(), elsewhere[player].detach())

    def _gradient(
        self,
        player: str,
        values: Mapping[str, Tensor],
        own: Vector,
        other: Vector,
        *,
        retain_graph: bool = False,
        where: str = "",
    ) -> Vector:
        label, loss = f"the loss of player {player!r}{where}", values[player]
        if player not in self._graphs:
            self._graphs[player] = read_graph(loss, other, label=label)
        return gradient(loss, own, retain_graph=retain_graph, by_backward=self._backward_of(player), label=label)

    def _backward_of(self, player: str) -> bool:
        return player in self._graphs and self._graphs[player].by_backward

    def _exact(self, player: str, values: Mapping[str, Tensor], here: Point, cross: CrossTerm) -> Vector:
        """c_i, one product: Σ_j −∇_i ⟨∇_j L_j, Δ_j⟩ over the opponents j, or +∇_i ⟨∇_{−i} L_i, Δ_{−i}⟩ of all at once.

        Each loss is taken as a whole, or the part of it in which the players meet, if it is told apart. A probe takes
        the opponents one by one, so that one who is met through a detach is not hidden by the others.
        """
        own, opponents = here[player], opponents_of(player, self._names)
        moves = parted(cross.displacement, here, opponents)
        pairs: list[tuple[str, tuple[str, ...]]]
        if cross.form == "opponent":
            pairs = [(j, (j,)) for j in opponents]
        elif self._exhaustive:
            pairs = [(player, (j,)) for j in opponents]
        else:
            pairs = [(player, opponents)]
        found = []
        for group in [[pair] for pair in pairs] if self._exhaustive else [pairs]:
            last = group[-1] == pairs[-1]
            if (product := self._product(player, group, values, here, moves, retain_graph=not last)) is not None:
                found.append((-1.0 if cross.form == "opponent" else 1.0, product))
        return weighted_sum(found) if found else tuple(torch.zeros_like(p) for p in own)

    def _product(
        self,
        player: str,
        pairs: Sequence[tuple[str, Sequence[str]]],  # a loss, and the opponents that it is differentiated by
        values: Mapping[str, Tensor],
        here: Point,
        moves: Mapping[str, Vector],
        *,
        retain_graph: bool,
    ) -> Vector | None:
        """∇_i Σ ⟨∇_by L_of, Δ_by⟩ over some pairs, or None where nothing of it depends on the player."""
        own = here[player]
        field: list[Tensor] = []
        displacement: list[Tensor] = []
        for of, by in pairs:
            if (part := self._field(player, of, by, values, here)) is not None:
                field += part
                displacement += [tensor for name in by for tensor in moves[name]]
        if not field:
            return None
        of = " and ".join(dict.fromkeys(repr(of) for of, _ in pairs))
        label = (
            f"the gradient of {of}'s loss with respect to {' and '.join(repr(name) for _, by in pairs for name in by)}"
        )
        exhaustive = self._exhaustive
        try:
            return cross_term(
                tuple(field), own, tuple(displacement), label=label, exhaustive=exhaustive, retain_graph=retain_graph
            )
        except DifferentiationError as error:
            for of, by in pairs:
                self._refuse_detached(error, player, of, by, here)
            return None

    def _field(
        self, player: str, of: str, by: Sequence[str], values: Mapping[str, Tensor], here: Point
    ) -> Vector | None:
        """∇_by L_of with its graph, or None where it is no function of the players that would meet in it."""
        loss, at = values.get(COUPLED + of, values[of]), joined(here, by)
        if not loss.requires_grad and COUPLED + of in values:
            return None  # a part that has not begun yet
        refuse_wrong_norms(loss, f"the loss of player {of!r}", here[player], at)
        try:
            # double backward: the graph of the opponent's gradient is differentiated once more
            label = f"the gradient of {of!r}'s loss with respect to {' and '.join(map(repr, by))}"
            return gradient(loss, at, create_graph=True, label=label)
        except DifferentiationError as error:
            self._refuse_detached(error, player, of, by, here)
            return None

    def _refuse_detached(
        self, error: DifferentiationError, player: str, of: str, by: Sequence[str], here: Point
    ) -> None:
        """Raise the error, or warn, if a loss that gave no cross term depends on the players, but through a detach.

        A loss that ignores its opponents, as before an adversarial term begins, has no cross term; there a zero is
        right.
        """
        whom = by if of == player else (player,)
        if not self.interacts(of, here, on=whom):
            return
        if not self._lenient:
            raise error
        warnings.warn(
            f"The loss of player {of!r} reaches {' and '.join(map(repr, whom))} through a detach from now on, as old "
            f"fakes do; such a turn of {player!r} is played without a cross term",
            stacklevel=1,
        )

    def _difference(self, player: str, losses: Losses, here: Point, now: Vector, cross: CrossTerm) -> Vector:
        """c_i = g_i now minus g_i against the opponents as they were."""
        own, other = here[player], joined(here, opponents_of(player, self._names))
        earlier_other = leaves_of(moved_back(other, cross.displacement), requires_grad=not self._backward_of(player))
        there = self._ordered(player, own, earlier_other, here)
        with self._contexts.swap(there):
            values = losses(there, frozenset({player}), replay=True)
            earlier = self._gradient(player, values, own, other, where=" against the earlier opponent")
        return weighted_sum([(1.0, now), (-1.0, earlier)])

    def _ordered(self, player: str, own: Vector, other: Vector, point: Point) -> dict[str, Vector]:
        parts = parted(other, point, opponents_of(player, self._names))
        return {name: own if name == player else parts[name] for name in self._names}


def part_of(losses: Losses, fraction: float) -> Losses:
    """Return losses on the first samples of a batch."""
    if not isinstance(losses, Divisible):
        raise DifferentiationError(
            "Cannot take a cross term on a fraction of the batch because the losses cannot be evaluated on a part of "
            f"it; give them a method part(fraction), or use the whole batch (got fraction {fraction})"
        )
    return losses.part(fraction)

"""The oracle: every derivative a game optimizer may ask for, at any point, detached and averaged over ranks.

    gradient(i)                 g_i
    gradient(i, at=…)           g_i elsewhere: a repeat, or the turn's real forward
    gradient(i, cross=…)        g_i + weight · c_i          (one reduction, because the sum is linear in the losses)
    hessian_product(i, …)       Σ (∂²L_k / ∂θ_i ∂θ_j) w     (one reduction)
    ahead(d)                    where the optimizer would take the players along d

The losses are handed in as functions of a point, one per micro-batch, each replaying the same data and the same random
numbers whenever it is called again. Forms of c_i: see `calculus.derivatives`, and for "difference"

    c_i = ∇_i L_i(θ_i, θ_j) − ∇_i L_i(θ_i, θ_j − Δ_j)       (same batch, same latents, same masks, frozen buffers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError, DifferentiationError
from lightning_lead._typing import Point, Vector
from lightning_lead.calculus.chain import Chain, judge_gradient, maker_gradient
from lightning_lead.calculus.chain_difference import judge_difference, maker_difference
from lightning_lead.calculus.chain_exact import judge_direction, maker_direction
from lightning_lead.calculus.derivatives import cross_term, gradient, hessian_product
from lightning_lead.calculus.float32 import float32_products, full_float32
from lightning_lead.calculus.players import norm, opponent_of, weighted_sum
from lightning_lead.calculus.steps import Steps
from lightning_lead.calculus.terms import (
    CrossTerm,
    Divisible,
    HessianTerm,
    Losses,
    OracleStatistics,
    average_statistics,
    cross_statistics,
)

__all__ = ["GameOracle", "no_reduction"]


def no_reduction(vector: Vector) -> Vector:
    """The reduction of a single process: the vector itself."""
    return vector


class GameOracle:
    """Derivatives of a two-player game on one batch.

    Args:
        point: the players' parameters now; name -> vector. The order of names is the order of play.
        losses: one function per micro-batch.
        weights: the share of each micro-batch in this rank's batch; sums to 1.
        reduce: averages a vector over ranks.
        place: puts a point into the module that the losses look at, for as long as derivatives are taken.
        full_precision: a context in which autocast is off; used for derivatives, and for the difference form as a
            whole, where TF32 is off as well.
        exhaustive: visit the whole graph of a cross term, for a probe; see `derivatives.cross_term`.
        inspect: whether norms and cosines are wanted; where the cross term has structure they cost one more
            gradient. The direction is the same, bit for bit.
        steps: the optimizers' next step, for rules that look ahead.

    Attributes:
        evaluations: how many "gradients" and "hessian_products" this oracle was asked for; a cross term counts as what
            it is made of. Per batch, however many micro-batches that is.
        notes: what the rule wants to have logged, name -> number.
        by_backward: whether gradients are taken of whole losses by `backward()`, as reentrant checkpointing asks; see
            `derivatives.gradient`. A probe finds out.

    Example:
        >>> x, y = torch.tensor(3.0), torch.tensor(2.0)
        >>> def losses(point, wanted, *, replay):
        ...     f = point["x"][0] * point["y"][0]
        ...     return {"x": f, "y": -f}
        >>> oracle = GameOracle({"x": (x,), "y": (y,)}, [losses])
        >>> oracle.gradient("x")
        (tensor(2.),)
        >>> oracle.gradient("x", cross=CrossTerm(1.0, (torch.tensor(0.5),), "opponent"))
        (tensor(2.5000),)
    """

    def __init__(
        self,
        point: Point,
        losses: Sequence[Losses],
        *,
        weights: Sequence[float] | None = None,
        reduce: Callable[[Vector], Vector] = no_reduction,
        place: Callable[[Point], AbstractContextManager[object]] = lambda point: nullcontext(),
        full_precision: Callable[[], AbstractContextManager[object]] = nullcontext,
        exhaustive: bool = False,
        inspect: bool = True,
        steps: Steps | None = None,
    ) -> None:
        self.point: dict[str, Vector]
        self.arrive(point)
        self.statistics: dict[str, OracleStatistics] = {}
        self.evaluations: Counter[str] = Counter()
        self.notes: dict[str, float] = {}
        self.by_backward = False
        self._losses = list(losses)
        self._weights = list(weights) if weights is not None else [1.0 / len(self._losses)] * len(self._losses)
        self._reduce = reduce
        self._place = place
        self._evaluated: set[int] = set()
        self._full_precision = full_precision
        self._exhaustive = exhaustive
        self._inspect = inspect
        self._steps = steps

    @property
    def names(self) -> tuple[str, ...]:
        """The players' names, in the order of play."""
        return tuple(self.point)

    def gradient(
        self, player: str, *, at: Point | None = None, cross: CrossTerm | None = None, replay: bool | None = None
    ) -> Vector:
        """∇_i L_i, plus a weighted cross term if asked.

        Cost in gradient evaluations: 1; with an exact cross term, one more gradient and its derivative; with the
        difference form, 2.

        Args:
            player: whose gradient.
            at: where; default the current point.
            cross: the cross term to add, or None.
            replay: whether the evaluation repeats another one and leaves buffers alone; by default it does elsewhere
                than at the current point. With False it is the turn's real forward, if the batch has not had one:
                buffers, spectral norms and random numbers move as they would at the current point.

        Returns:
            One tensor per parameter, detached, averaged over ranks.

        Raises:
            DifferentiationError: the loss does not depend on the player, or the field on the opponent.
        """
        difference = cross is not None and cross.form == "difference"
        self.evaluations["gradients"] += 2 if difference else 1
        self.evaluations["hessian_products"] += cross is not None and not difference
        repeats = at is not None if replay is None else replay
        directions, statistics = [], []
        for k, weight in enumerate(self._weights):
            direction, stats = self._local(player, k, at, cross, repeats)
            directions.append((weight, direction))
            statistics.append((weight, stats))
        if not repeats:
            self.statistics[player] = average_statistics(statistics)
        return self._reduce(weighted_sum(directions))

    def hessian_product(self, player: str, terms: Sequence[HessianTerm], *, at: Point | None = None) -> Vector:
        """Σ (∂²L_loss / ∂θ_player ∂θ_column) · vector: products of Hessian blocks, in one double backward pass.

        Always a repeat of an evaluation, so it leaves buffers alone. Linear in the losses, so one reduction makes it
        that of the joint batch if the vectors are themselves averaged over ranks.

        Cost: one gradient and its derivative for each term.

        Args:
            player: the row of the blocks.
            terms: whose loss, by whose parameters, times what; at least one.
            at: where; default the current point.

        Returns:
            One tensor per parameter of the player, detached, averaged over ranks; zeros where nothing depends on it.

        Raises:
            DifferentiationError: a loss does not depend on its column.
        """
        self.evaluations["hessian_products"] += len(terms)
        place = self.point if at is None else at
        products = []
        for weight, losses in zip(self._weights, self._losses, strict=True):
            point = {name: tuple(p.detach().requires_grad_() for p in place[name]) for name in self.names}
            with torch.enable_grad(), self._place(point):
                values = losses(point, frozenset(term.loss for term in terms), replay=True)
                with self._full_precision():
                    products.append((weight, hessian_product(values, point, point[player], terms)))
        return self._reduce(weighted_sum(products))

    def ahead(
        self, directions: Mapping[str, Vector], *, fraction: float = 1.0, remember: bool = False
    ) -> dict[str, Vector]:
        """The point where the optimizer would take the players along the directions; who has none stays.

        Args:
            directions: player -> d, averaged over ranks.
            fraction: the part of a step that is meant; see `calculus.steps`.
            remember: let the optimizer's memory see this step too.
        """
        return self.point | self._moves().ahead(directions, fraction=fraction, remember=remember)

    def rates(self, player: str) -> tuple[float, ...]:
        """The learning rate of each of the player's parameters.

        Args:
            player: whose.
        """
        return self._moves().rates(player)

    def lag(self, player: str) -> float:
        """The mean age of the gradients in the player's next step, in its own steps; see `calculus.steps`.

        Args:
            player: whose.
        """
        return self._moves().lag(player)

    def _moves(self) -> Steps:
        if self._steps is None:
            raise ConfigurationError(
                "Cannot look at the next step because the oracle knows no optimizer; pass steps=Steps(players, "
                "optimizers), or settings that need none, as a number for LEAD's coupling"
            )
        return self._steps

    def arrive(self, point: Point) -> None:
        """Take a point as the current one.

        A rule that looks from elsewhere, both players from one point, arrives there before its first gradient; what
        they share at the current point, as fakes, they then share there.

        Args:
            point: the players' parameters.
        """
        self.point = {name: tuple(p.detach() for p in vector) for name, vector in point.items()}

    def _local(
        self, player: str, k: int, at: Point | None, cross: CrossTerm | None, replay: bool
    ) -> tuple[Vector, OracleStatistics]:
        # the first look is the real forward; whatever comes after it repeats it
        real, replay = not replay, replay or k in self._evaluated
        if real:
            self._evaluated.add(k)
        losses = self._losses[k]
        place = dict(self.point if at is None else at)
        linked = isinstance(losses, Chain) and (losses.linked if cross is None else losses.structure.chained)
        if isinstance(losses, Chain) and linked and not self.by_backward:
            return self._chained(player, k, losses, place, cross, replay, here=real and at is None)
        own = tuple(p.detach().requires_grad_() for p in place[player])
        exact = cross is not None and cross.form != "difference"
        opponent = opponent_of(player, self.names) if len(self.names) > 1 else player  # descent knows no opponent
        other = tuple(p.detach().requires_grad_(exact) for p in place[opponent])
        divided = cross is not None and cross.fraction < 1
        wanted = frozenset({player, opponent} if cross is not None and cross.form == "opponent" else {player})
        subtracts = cross is not None and cross.form == "difference"
        precise = self._float32 if subtracts else nullcontext
        reverse = self._float32 if subtracts else self._full_precision
        point = self._ordered(player, own, other)
        with torch.enable_grad(), self._place(point):
            with precise():
                values = losses(point, frozenset({player}) if divided else wanted, replay=replay)
            with reverse():
                label = f"the loss of player {player!r}"
                keep = exact and not divided
                grad = now = gradient(values[player], own, retain_graph=keep, by_backward=self.by_backward, label=label)
            loss = values[player].detach()
            if divided and cross is not None:
                losses = _part(losses, cross.fraction)
                with precise():
                    values = losses(point, wanted, replay=True)
                    if not exact:
                        now = gradient(values[player], own, by_backward=self.by_backward, label=label)
            with reverse():
                if cross is None:
                    term = None
                elif exact:
                    term = self._exact(player, values, own, other, cross)
                else:
                    term = self._difference(player, losses, own, other, now, cross)
        grad = tuple(g.detach() for g in grad)
        if not self._inspect:
            direction = grad if term is None or cross is None else weighted_sum([(1.0, grad), (cross.weight, term)])
            return direction, OracleStatistics(loss, None, None, None)
        if term is None or cross is None:
            return grad, OracleStatistics(loss, norm(grad), None, None)
        return weighted_sum([(1.0, grad), (cross.weight, term)]), cross_statistics(loss, grad, term)

    def _chained(
        self, player: str, k: int, chain: Chain, place: Point, cross: CrossTerm | None, replay: bool, *, here: bool
    ) -> tuple[Vector, OracleStatistics]:
        """The same link by link, direction and cross term in one reverse pass."""
        opponent = opponent_of(player, self.names)
        judges = player == chain.judge
        own, other = (tuple(p.detach() for p in place[name]) for name in (player, opponent))
        own = tuple(p.requires_grad_() for p in own)
        context: dict[str, Any] = {"place": self._place, "full_precision": self._full_precision, "replay": replay}
        kept: dict[str, Any] = {} if judges or not here else {"kept": chain.kept()}
        if cross is None and judges:
            direction, loss = judge_gradient(chain, own, other, hands_on=here and chain.joint, **context)
        elif cross is None:
            direction, loss = maker_gradient(chain, own, other, **context, **kept)
        else:
            context |= {"displacement": cross.displacement, "weight": cross.weight}
            context["part"] = chain.part(cross.fraction) if cross.fraction < 1 else None
            if cross.form == "difference":
                direct = judge_difference if judges else maker_difference
                direction, loss = direct(chain, own, other, **context, **kept)
            else:
                exact = judge_direction if judges else maker_direction
                direction, loss = exact(chain, own, other, form=cross.form, **context)
        if not self._inspect:
            return direction, OracleStatistics(loss, None, None, None)
        if cross is None:
            return direction, OracleStatistics(loss, norm(direction), None, None)
        with self._float32() if cross.form == "difference" else nullcontext():  # it is subtracted, too
            grad, _ = self._local(player, k, place, None, True)
        term = weighted_sum([(1 / cross.weight, direction), (-1 / cross.weight, grad)])
        return direction, cross_statistics(loss, grad, term)

    def _exact(self, player: str, values: Mapping[str, Tensor], own: Vector, other: Vector, cross: CrossTerm) -> Vector:
        """c_i = ∓∇_i ⟨∇_j L, Δ_j⟩, L being the opponent's loss or the own one."""
        opponent = opponent_of(player, self.names)
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
        point = self._ordered(player, own, before)
        with self._place(point):
            values = losses(point, frozenset({player}), replay=True)
            label = f"the loss of player {player!r} against the earlier opponent"
            earlier = gradient(values[player], own, by_backward=self.by_backward, label=label)
        return weighted_sum([(1.0, grad), (-1.0, earlier)])

    @contextmanager
    def precisely(self) -> Iterator[bool]:
        """Take gradients that are to be subtracted, with neither autocast nor TF32; yields True if either was on."""
        device = next(iter(self.point.values()))[0].device
        rounded = any(dtype != "float32" for dtype in float32_products(device).values())
        coarse = rounded or torch.is_autocast_enabled(device.type)
        with self._float32():
            yield coarse

    @contextmanager
    def _float32(self) -> Iterator[None]:
        """Neither autocast nor TF32, for gradients that are subtracted from each other."""
        with self._full_precision(), full_float32():
            yield

    def interacts(self, player: str) -> bool:
        """Return whether the loss depends on the opponent, also where that is detached; by replays that leave no trace.

        Args:
            player: whose loss.
        """
        opponent = opponent_of(player, self.names)
        place = {name: tuple(p.detach().requires_grad_() for p in vector) for name, vector in self.point.items()}
        with torch.enable_grad(), self._place(place):
            loss = self._losses[0](place, frozenset({player}), replay=True)[player]
            with suppress(DifferentiationError):
                gradient(loss, place[opponent], by_backward=self.by_backward)
                return True
        # far enough for every precision; a loss that is not the same number twice gets the benefit of the doubt
        place[opponent] = tuple((1.25 * p.detach() + 0.125).requires_grad_() for p in place[opponent])
        with torch.enable_grad(), self._place(place):
            elsewhere = self._losses[0](place, frozenset({player}), replay=True)[player]
        return not torch.equal(loss.detach(), elsewhere.detach())

    def _ordered(self, player: str, own: Vector, other: Vector) -> dict[str, Vector]:
        return {name: own if name == player else other for name in self.names}


def _part(losses: Losses, fraction: float) -> Losses:
    if not isinstance(losses, Divisible):
        raise DifferentiationError(
            "Cannot take a cross term on a fraction of the batch because the losses cannot be evaluated on a part of "
            f"it; give them a method part(fraction), or use the whole batch (got fraction {fraction})"
        )
    return losses.part(fraction)

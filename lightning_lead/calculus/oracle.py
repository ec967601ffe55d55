"""The oracle: every derivative a game optimizer may ask for, at any point, detached and averaged over ranks.

    gradient(i)                 g_i
    gradient(i, at=…)           g_i elsewhere: a replay, or the turn's real forward
    gradient(i, cross=…)        g_i + weight · c_i          (one reduction, because the sum is linear in the losses)
    hessian_product(i, …)       Σ (∂²L_k / ∂θ_i ∂θ_j) w     (one reduction)
    ahead(d)                    where the optimizer would take the players along d

The losses are functions of a point, one per micro-batch; every call has the same data and the same random numbers. The
oracle counts, weighs and reduces. Two backends take the derivatives, one of any losses (`calculus._general`) and a
faster one of L(D(G(z))) (`calculus._chain`). Forms of c_i: see `calculus.derivatives`, and for "difference"

    c_i = ∇_i L_i(θ_i, θ_j) − ∇_i L_i(θ_i, θ_j − Δ_j)       (same batch, same latents, same masks, frozen buffers).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._chain.derivatives import ChainDerivatives
from lightning_lead.calculus._chain.links import Chain
from lightning_lead.calculus._float32 import float32_products
from lightning_lead.calculus._general import GeneralDerivatives
from lightning_lead.calculus._graph import LossGraph
from lightning_lead.calculus._players import norm, weighted_sum
from lightning_lead.calculus._terms import (
    Backend,
    Contexts,
    CrossTerm,
    HessianTerm,
    Losses,
    OracleStatistics,
    average_statistics,
    cross_statistics,
    divided,
    no_reduction,
)
from lightning_lead.calculus.lookahead import Lookahead

__all__ = ["GameOracle"]


class GameOracle:
    """Derivatives of a game of two or more players on one batch.

    Args:
        point: the players' parameters; name -> vector, in the order of play.
        losses: one function per micro-batch. If it has an attribute `scale`, its losses come multiplied by it, and what
            is found is divided by it.
        weights: the share of each micro-batch in this rank's batch; sums to 1.
        reduce: averages a vector over ranks.
        swap: puts a point into the module that the losses evaluate, for as long as derivatives are taken.
        full_precision: a context in which autocast is off; for derivatives, and for the whole difference form, where
            TF32 is off as well.
        exhaustive: visit the whole graph of a cross term, for a probe; see `derivatives.cross_term`.
        inspect: take norms and cosines, at the cost of one more gradient where the cross term has structure. The
            direction is the same, bit for bit.
        lookahead: the optimizers' next step, for rules that look ahead.
        graphs: player -> what the graph of its loss tells, to be kept from turn to turn. A player that it lacks gets an
            entry at its first gradient; by default no graph is read.
        joint: plain gradients of both players at the current point come from one evaluation of both losses.
        lenient: where a loss reaches the opponent through a detach, leave the cross term out with a warning.
        local: player -> what is done with its vectors in the place of `reduce`, for players that each rank has its own
            of, as a perturbation of each sample.

    Attributes:
        evaluations: the numbers of "gradients" and "hessian_products" that were asked for; an exact cross term is one
            product, a difference one more gradient. Per batch, whatever the number of micro-batches.
        notes: numbers of the rule for the log, by name.
        graphs: as they were passed, with the entries that are known by now.
        sizes: of scaled losses the largest entries of every answer; one is not finite where an answer has overflowed.
            A rule may hide it, as a solver that takes it for a solve that does not converge.

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
        swap: Callable[[Point], AbstractContextManager[object]] = lambda point: nullcontext(),
        full_precision: Callable[[], AbstractContextManager[object]] = nullcontext,
        exhaustive: bool = False,
        inspect: bool = True,
        lookahead: Lookahead | None = None,
        graphs: dict[str, LossGraph] | None = None,
        joint: bool = False,
        lenient: bool = False,
        local: Mapping[str, Callable[[Vector], Vector]] | None = None,
    ) -> None:
        check_arguments(GameOracle, locals())
        self.point: dict[str, Vector]
        self.arrive(point)
        self.statistics: dict[str, OracleStatistics] = {}
        self.evaluations: Counter[str] = Counter()
        self.notes: dict[str, float] = {}
        self.sizes: list[torch.Tensor] = []
        self._weights = list(weights) if weights is not None else [1.0 / len(losses)] * len(losses)
        self._reduce, self._inspect, self._lookahead = reduce, inspect, lookahead
        self._local_reductions = dict(local or {})
        self._scales = [float(getattr(each, "scale", 1.0)) for each in losses]
        self._evaluated: set[int] = set()  # the micro-batches that have had their real forward
        self._contexts = contexts = Contexts(swap, full_precision)
        self.graphs = dict.fromkeys(self.names, LossGraph(False, True)) if graphs is None else graphs
        settings: dict[str, Any] = {
            "graphs": self.graphs,
            "exhaustive": exhaustive,
            "joint": joint,
            "lenient": lenient,
        }
        self._chains = [
            ChainDerivatives(each, contexts, self.graphs) if isinstance(each, Chain) else None for each in losses
        ]
        self._generals = [GeneralDerivatives(each, self.names, contexts, **settings) for each in losses]

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
            replay: leave buffers alone; by default elsewhere than at the current point. With False it is the turn's
                real forward, if the batch has not had one: buffers, spectral norms and random numbers move.

        Returns:
            One tensor per parameter, detached, averaged over ranks.

        Raises:
            DifferentiationError: the loss does not depend on the player, or the field on the opponent.
        """
        difference = cross is not None and cross.form == "difference"
        self.evaluations["gradients"] += 2 if difference else 1
        self.evaluations["hessian_products"] += cross is not None and not difference
        replay = at is not None if replay is None else replay
        directions, statistics = [], []
        for k, weight in enumerate(self._weights):
            direction, stats = self._local(player, k, at, cross, replay)
            directions.append((weight, direction))
            statistics.append((weight, stats))
        if not replay:
            self.statistics[player] = average_statistics(statistics)
        return self._reduced(player, weighted_sum(directions))

    def hessian_product(self, player: str, terms: Sequence[HessianTerm], *, at: Point | None = None) -> Vector:
        """Σ (∂²L_loss / ∂θ_player ∂θ_column) · vector: products of Hessian blocks, in one double backward pass.

        Always a replay. It is linear in the losses, so one reduction makes it that of the joint batch; the vectors are
        to be averages over ranks.

        Cost: one gradient and its derivative for each term.

        Args:
            player: the row of the blocks.
            terms: at least one.
            at: where; default the current point.

        Returns:
            One tensor per parameter of the player, detached, averaged over ranks; zeros where nothing depends on it.

        Raises:
            DifferentiationError: a loss does not depend on its column.
        """
        self.evaluations["hessian_products"] += len(terms)
        point = self.point if at is None else at
        products = [
            (weight, divided(general.hessian_product(player, point, terms), scale))
            for weight, scale, general in zip(self._weights, self._scales, self._generals, strict=True)
        ]
        return self._reduced(player, weighted_sum(products))

    def ahead(
        self, directions: Mapping[str, Vector], *, fraction: float = 1.0, remember: bool = False
    ) -> dict[str, Vector]:
        """The point where the optimizers would take the players; one without a direction stays. See `Lookahead`."""
        return self.point | self._moves().ahead(directions, fraction=fraction, remember=remember)

    def feasible(self, player: str, vector: Vector) -> Vector:
        """The nearest point of the set that the player's parameters stay in; without a constraint, the point itself."""
        constraint = self._lookahead.constraints.get(player) if self._lookahead is not None else None
        return vector if constraint is None else tuple(constraint.project(tensor) for tensor in vector)

    def rates(self, player: str) -> tuple[float, ...]:
        """The learning rate of each of the player's parameters."""
        return self._moves().rates(player)

    def lag(self, player: str) -> float:
        """The mean age of the gradients in the player's next step, in its own steps; see `momentum_lag`."""
        return self._moves().lag(player)

    def _moves(self) -> Lookahead:
        if self._lookahead is None:
            raise ConfigurationError(
                "Cannot look at the next step because the oracle knows no optimizer; pass lookahead=Lookahead(players, "
                "optimizers), or settings that need none, as a number for LEAD's coupling"
            )
        return self._lookahead

    def arrive(self, point: Point) -> None:
        """Take a point as the current one.

        A rule whose players both evaluate elsewhere calls this before its first gradient; then they share fakes there.
        """
        self.point = {name: tuple(p.detach() for p in vector) for name, vector in point.items()}

    def _reduced(self, player: str, vector: Vector) -> Vector:
        answer = self._local_reductions.get(player, self._reduce)(vector)
        if any(scale != 1.0 for scale in self._scales):
            self.sizes += torch._foreach_norm([tensor for tensor in answer if tensor.numel()], math.inf)
        return answer

    def _local(
        self, player: str, k: int, at: Point | None, cross: CrossTerm | None, replay: bool
    ) -> tuple[Vector, OracleStatistics]:
        """This rank's direction on one micro-batch, and its statistics."""
        # the first evaluation is the real forward; all others are replays of it
        real, replay = not replay, replay or k in self._evaluated
        if real:
            self._evaluated.add(k)
        point = dict(self.point if at is None else at)
        backend = self._backend(player, k, cross)
        scale = self._scales[k]
        found = backend.direction(player, point, cross, replay=replay, current=real and at is None).unscaled(scale)
        if not self._inspect:
            return found.vector, OracleStatistics(found.loss, None, None, None)
        if cross is None:
            return found.vector, OracleStatistics(found.loss, norm(found.vector), None, None)
        grad, term = found.gradient, found.term
        if grad is None or term is None:  # one reverse pass gave their sum: the gradient is taken once more, alone
            with self._contexts.full_float32() if cross.form == "difference" else nullcontext():
                alone = self._backend(player, k, None).direction(player, point, None, replay=True)
                grad = alone.unscaled(scale).vector
            term = weighted_sum([(1 / cross.weight, found.vector), (-1 / cross.weight, grad)])
        return found.vector, cross_statistics(found.loss, grad, term)

    def _backend(self, player: str, k: int, cross: CrossTerm | None) -> Backend:
        """The faster backend where it serves."""
        chain = self._chains[k]
        return chain if chain is not None and chain.serves(player, cross) else self._generals[k]

    @contextmanager
    def precisely(self) -> Iterator[bool]:
        """Take gradients that are to be subtracted, with neither autocast nor TF32; yield True if either was on."""
        device = next(iter(self.point.values()))[0].device
        products = set(float32_products(device).values())  # read before TF32 is off
        coarse = products != {"float32"} or torch.is_autocast_enabled(device.type)
        with self._contexts.full_float32():
            yield coarse

    def interacts(self, player: str) -> bool:
        """True if the player's loss depends on the opponent, also where that is detached."""
        return self._generals[0].interacts(player, self.point)

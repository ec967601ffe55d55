"""Adaptive competitive gradient descent: CGD whose step sizes adapt to each parameter, as RMSprop's do.

    v⁺ = β v + (1 − β) g²,      η_t = η √(1 − βᵗ) / (√v⁺ + ε)  for each parameter,      then the moves of CGD by η_t

The authors' package solves for one player's move and the other's by turns, here it is always the first one's: the same
where the solve is exact.

Reference: Schäfer, Zheng and Anandkumar, "Implicit competitive regularization in GANs", ICML 2020, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules._local_solver import LocalSolver, as_directions
from lightning_lead.rules._real import check_real
from lightning_lead.rules.base import AbstractGameRule, RuleNeeds, RuleState

__all__ = ["ACGD"]


@final
class ACGD(AbstractGameRule):
    """Competitive gradient descent with adaptive steps. Solver, cost and reductions: as `CGD`.

    It takes plain steps; η is the learning rate. State: the squares' averages, a count, the last solution, failures.

    Args:
        solver: "gmres" for any two losses, "cg" for zero-sum games.
        beta: β in (0, 1), of the squares' average.
        eps: ε > 0, in units of the gradient.
        tolerance: relative residual at which the solve ends, in (0, 1).
        max_iterations: of a solve, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(ACGD(), BilinearGame([[1.0]]), lr=0.1, steps=100)
        >>> path.distances[-1] < 0.1 * path.distances[0]
        True
    """

    plays: tuple[Play, ...] = ("simultaneous",)

    def __init__(
        self,
        solver: Literal["cg", "gmres"] = "gmres",
        *,
        beta: float = 0.99,
        eps: float = 1e-5,
        tolerance: float = 1e-6,
        max_iterations: int = 50,
    ) -> None:
        check_arguments(ACGD, locals())
        self._local = LocalSolver.checked(solver, tolerance, max_iterations)
        self.solver, self.tolerance, self.max_iterations = self._local
        self.needs = RuleNeeds(
            second_order=True,
            repeats_batch=True,
            uses_opponent=True,
            requires_sgd=True,
            zero_sum=solver == "cg",
            unconstrained=True,
            compares=True,
        )
        self.beta = require_number("beta", beta, low=0, high=1, closed=False, why="it averages squares")
        self.eps = require_number("eps", eps, low=0, high=float("inf"), closed=False, why="it keeps a quotient finite")

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """By both solvers, as exactly as float64 allows."""
        return [cls(tolerance=1e-13), cls("cg", tolerance=1e-13)]

    def init(self, point: Point) -> RuleState:
        """Nothing seen, no solution yet."""
        check_real(self.name, point)
        return {"squares": {}, "count": 0, "guess": None, "failures": 0}

    def forget(self, state: RuleState, player: str, point: Point) -> RuleState:
        """Begin anew for both: the bias correction counts their steps together."""
        return self.init(point) | {"failures": state["failures"]}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """−Δ/η of both players' moves."""
        field = {player: oracle.gradient(player) for player in players}
        rates = {player: oracle.rates(player) for player in players}
        count, squares, scales = state["count"] + 1, {}, {}
        correction = math.sqrt(1 - self.beta**count)
        for player in players:
            before = state["squares"].get(player) or tuple(torch.zeros_like(g) for g in field[player])
            squares[player] = now = tuple(
                self.beta * v + (1 - self.beta) * g * g for v, g in zip(before, field[player], strict=True)
            )
            scales[player] = tuple(
                rate * correction / (v.sqrt() + self.eps) for v, rate in zip(now, rates[player], strict=True)
            )
        moves, guess, found = self._local.moves(oracle, field, scales, state["guess"])
        failures = self._local.counted(oracle, found, state["failures"], self.name)
        new = {"squares": squares, "count": count, "guess": guess, "failures": failures}
        return as_directions(moves, rates), new

"""Competitive gradient descent: both players' answer to each other's move, in a local bilinear game.

    Δx = argmin  ⟨∇ₓLₓ, Δx⟩ + Δxᵀ F Δy + ½ Δxᵀ η⁻¹ Δx,      F = ∂²Lₓ/∂x∂y
    Δy = argmin  ⟨∇ᵧLᵧ, Δy⟩ + Δyᵀ G Δx + ½ Δyᵀ η⁻¹ Δy,      G = ∂²Lᵧ/∂y∂x
    so  (I − √ηₓ F ηᵧ G √ηₓ) z = √ηₓ (∇ₓLₓ − F ηᵧ ∇ᵧLᵧ),    Δx = −√ηₓ z,    Δy = −ηᵧ (∇ᵧLᵧ + G Δx)

In a zero-sum game G = −Fᵀ and the matrix is symmetric positive definite. It is always the first player's move that is
solved for, and the second one answers it; solved exactly, it does not matter whose.

Reference: Schäfer and Anandkumar, "Competitive Gradient Descent", NeurIPS 2019, equations 2 to 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules._local_solver import LocalSolver, as_directions
from lightning_lead.rules.base import AbstractGameRule, RuleNeeds, RuleState

__all__ = ["CGD"]


@final
class CGD(AbstractGameRule):
    """Competitive gradient descent. Cost of a game step: two gradients and 4 + 2 × iterations Hessian products.

    One product is in the right-hand side, two check the guess, two make an iteration, and one is the second player's
    answer. The first step has no guess and needs two less; plain steps after a failed solve ask for no answer, one
    less. Every one is averaged over ranks, one reduction each.

    It takes plain steps; η is the learning rate. State: the last solution, from where the next solve begins, and how
    often a solve has failed.

    Args:
        solver: "gmres" for any two losses, "cg" for zero-sum games.
        tolerance: relative residual at which the solve ends, in (0, 1).
        max_iterations: of a solve, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(CGD(), BilinearGame([[1.0]]), lr=0.5, steps=100)
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    affine = True
    plays: tuple[Play, ...] = ("simultaneous",)

    def __init__(
        self, solver: Literal["cg", "gmres"] = "gmres", *, tolerance: float = 1e-6, max_iterations: int = 50
    ) -> None:
        check_arguments(CGD, locals())
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

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """By both solvers, as exactly as float64 allows."""
        return [cls(tolerance=1e-13), cls("cg", tolerance=1e-13)]

    def init(self, point: Point) -> RuleState:
        """No solution yet."""
        return {"guess": None, "failures": 0}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """−Δ/η of both players' moves."""
        field = {player: oracle.gradient(player) for player in players}
        rates = {player: oracle.rates(player) for player in players}
        scales = {
            player: tuple(torch.full_like(g, rate) for g, rate in zip(field[player], rates[player], strict=True))
            for player in players
        }
        moves, guess, found = self._local.moves(oracle, field, scales, state["guess"])
        failures = self._local.counted(oracle, found, state["failures"], self.name)
        return as_directions(moves, rates), {"guess": guess, "failures": failures}

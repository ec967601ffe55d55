"""Consensus optimization: descend one's own loss, and jointly the length of the joint gradient.

    d = v + γ Jᵀ v,        Jᵀv = ∇ ½‖v‖²,        (Jᵀv)_i = Σ_j (∂²L_j / ∂θ_i ∂θ_j) g_j

Reference: Mescheder, Nowozin and Geiger, "The Numerics of GANs", NeurIPS 2017, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._players import weighted_sum
from lightning_lead.calculus._terms import HessianTerm
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["ConsensusOptimization"]


@final
class ConsensusOptimization(AbstractGameRule):
    """d = v + γ Jᵀv. Cost per player update: one gradient and two Hessian products. No state.

    In alternating play the opponent's gradient comes on top. The penalty is not linear in the samples, so every rank
    must know the joint batch's gradient of both players before it differentiates: one reduction more than a linear rule
    has.

    Args:
        weight: γ ≥ 0, in units of 1 / curvature of the loss.

    Raises:
        ConfigurationError: weight out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(ConsensusOptimization(weight=1.0), BilinearGame([[1.0]]), lr=0.3, steps=100)
        >>> path.distances[-1] < 1e-6 * path.distances[0]
        True
    """

    needs = RuleNeeds(second_order=True, repeats_batch=True, uses_opponent=True, unconstrained=True)
    affine = True
    plays = ("simultaneous", "alternating")
    cost = Cost(gradients=2, hessian_products=4)  # in simultaneous play

    def __init__(self, weight: float = 0.5) -> None:
        check_arguments(ConsensusOptimization, locals())
        self.weight = require_number("weight", weight, low=0, high=float("inf"), why="it weighs a penalty")

    def init(self, point: Point) -> RuleState:
        """No state."""
        return {}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """v_i + γ (Jᵀv)_i for each moving player."""
        # the mover's first: it is the evaluation that moves buffers
        field = {player: oracle.gradient(player) for player in players}
        field |= {other: oracle.gradient(other, at=oracle.point) for other in oracle.names if other not in field}
        terms = [HessianTerm(player, player, field[player]) for player in oracle.names]
        directions = {}
        for player in players:
            pull = oracle.hessian_product(player, terms)
            directions[player] = weighted_sum([(1.0, field[player]), (self.weight, pull)])
        return directions, state

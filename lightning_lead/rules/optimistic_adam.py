"""Optimistic Adam: the change of the optimizer's last step is taken to go on.

    u_i(t) = the step that the optimizer makes of g_i(t),        θ⁺ = θ + u_i(t) + (u_i(t) − u_i(t−1))

With Adam, u = −η m̂/(√v̂ + ε), this is Algorithm 1 of Daskalakis, Ilyas, Syrgkanis and Zeng, "Training GANs with
Optimism", ICLR 2018, but for the first step: it is u, as if the step before had been the same. The algorithm, read with
moments of zero before it, makes 2u of it. With SGD it is the optimistic gradient method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._types import Point, Vector
from lightning_lead.calculus._players import weighted_sum
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["OptimisticAdam"]


@final
class OptimisticAdam(AbstractGameRule):
    """θ⁺ = θ + 2u − u⁻, u being the optimizer's step. Cost: one gradient per player update. State: the last step.

    The optimizer is the one that you configure; with Adam the rule has its name.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(OptimisticAdam(), BilinearGame([[1.0]]), lr=0.3, steps=200)
        >>> path.distances[-1] < 1e-3 * path.distances[0]
        True
    """

    cost = Cost(gradients=2)
    affine = True
    needs = RuleNeeds(adjusts_weights=True, adds_to_step=True)

    def init(self, point: Point) -> RuleState:
        """Nobody has made a step; the first one is taken for the one before it too."""
        return {"step": {}}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Each moving player's own gradient."""
        return {player: oracle.gradient(player) for player in players}, state

    def adjust_weights(
        self, before: Point, after: Point, players: Sequence[str], state: RuleState
    ) -> tuple[Point, RuleState]:
        """Twice the optimizer's step, less the one before."""
        last, steps, point = state["step"], {}, {}
        for player in players:
            steps[player] = step = weighted_sum([(1.0, after[player]), (-1.0, before[player])])
            previous = last.get(player, step)
            point[player] = weighted_sum([(1.0, after[player]), (1.0, step), (-1.0, previous)])
        return point, {"step": last | steps}

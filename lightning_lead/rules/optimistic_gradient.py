"""Optimistic gradient: the last gradient's change is taken to go on.

    d_i(t) = g_i(t) + a (g_i(t) − g_i(t−1)),      into SGD(lr=η), a = 1:  θ⁺ = θ − 2η g(t) + η g(t−1)

References: Popov, "A modification of the Arrow-Hurwicz method", 1980; Daskalakis, Ilyas, Syrgkanis and Zeng, "Training
GANs with Optimism", ICLR 2018, equation 4. For the way of their Algorithm 1, optimism about Adam's step, see
`OptimisticAdam`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._players import weighted_sum
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleState

__all__ = ["OptimisticGradient"]


@final
class OptimisticGradient(AbstractGameRule):
    """d_i = g_i + a (g_i − g_i⁻). Cost: one gradient per player update. State: the last gradient of each player.

    Args:
        optimism: a ≥ 0, dimensionless; 1 is the method of the papers, 0 plain gradient play.

    Raises:
        ConfigurationError: optimism out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(OptimisticGradient(), BilinearGame([[1.0]]), lr=0.3, steps=200)
        >>> path.distances[-1] < 1e-3 * path.distances[0]
        True
    """

    cost = Cost(gradients=2)
    affine = True
    plays = ("simultaneous", "alternating")

    def __init__(self, optimism: float = 1.0) -> None:
        check_arguments(OptimisticGradient, locals())
        self.optimism = require_number(
            "optimism", optimism, low=0, high=float("inf"), why="a negative one adds to the spin"
        )

    def init(self, point: Point) -> RuleState:
        """No gradient has been seen; the first one is taken for the one before it too."""
        return {"gradient": {}}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """g_i + a (g_i − g_i⁻) for each moving player."""
        last, seen, directions = state["gradient"], {}, {}
        for player in players:
            seen[player] = now = oracle.gradient(player)
            before = last.get(player, now)
            directions[player] = weighted_sum([(1 + self.optimism, now), (-self.optimism, before)])
        return directions, {"gradient": last | seen}

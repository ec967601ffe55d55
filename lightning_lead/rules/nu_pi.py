"""νPI: a proportional-integral controller whose error signal is the gradient, and its proportional part smoothed.

    ξ_i(t) = ν ξ_i(t−1) + (1 − ν) g_i(t)
    d_i(t) = g_i(t) + κ (ξ_i(t) − ξ_i(t−1)) = g_i(t) + κ(1 − ν) (g_i(t) − ξ_i(t−1))

κ = κ_p/κ_i, and κ_i is the learning rate η of the SGD that d goes into. κ = 0 is gradient play, ν = 0 the optimistic
gradient. With ν it is the optimistic gradient with momentum, but for its first steps:

    momentum ν,      learning rate η(1 − ν),      optimism ν/(1 − ν) + κ

ν/(1 − ν) is the mean age of the gradients in a step with momentum ν, so κ is how many steps it looks ahead beyond
that, as the margin in LEAD's law (`rules._coupling`). κ = −β/(1 − β), ν = β looks back as far, and is heavy ball.

The first gradient is taken for all before it too, ξ(−1) = g(0), so that the first step is a plain one; the paper leaves
the start open. There the multipliers of a constrained problem alone move so; here both players do.

Reference: Sohrabi, Ramirez, Zhang, Lacoste-Julien and Gallego-Posada, "On PI Controllers for Updating Lagrange
Multipliers in Constrained Optimization", ICML 2024, Algorithm 1 in the recursive form of Lemma 2; heavy ball by
Theorem 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._players import snapshot, weighted_sum
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleState

__all__ = ["NuPI"]


@final
class NuPI(AbstractGameRule):
    """d_i = g_i + κ (ξ_i − ξ_i⁻). Cost: one gradient per player update. State: the average ξ of each player.

    Args:
        kappa: κ, dimensionless, finite; by how many steps d looks ahead. Below 0 it is momentum.
        nu: ν in (−1, 1), what is kept of the average; 0 is the last gradient.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(NuPI(), BilinearGame([[1.0]]), lr=0.3, steps=200)
        >>> path.distances[-1] < 1e-3 * path.distances[0]
        True
    """

    cost = Cost(gradients=2)
    affine = True

    def __init__(self, kappa: float = 1.0, *, nu: float = 0.5) -> None:
        check_arguments(NuPI, locals())
        limit = float("inf")
        self.kappa = require_number("kappa", kappa, low=-limit, high=limit, why="it weighs a change of the gradient")
        self.nu = require_number("nu", nu, low=-1, high=1, closed=False, why="an average must forget")

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """With its defaults, slower and stronger, as the optimistic gradient, and as heavy ball with β = 0.3."""
        return [cls(), cls(3.0, nu=0.8), cls(1.0, nu=0.0), cls(-0.3 / 0.7, nu=0.3)]

    def init(self, point: Point) -> RuleState:
        """No gradient has been seen; the first one is taken for the average before it too."""
        return {"average": {}}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """g_i + κ(1 − ν) (g_i − ξ_i⁻) for each moving player."""
        last, averages, directions = state["average"], {}, {}
        change = self.kappa * (1 - self.nu)
        for player in players:
            now = snapshot(oracle.gradient(player))
            before = last.get(player, now)
            directions[player] = weighted_sum([(1 + change, now), (-change, before)])
            averages[player] = weighted_sum([(1 - self.nu, now), (self.nu, before)])
        return directions, {"average": last | averages}

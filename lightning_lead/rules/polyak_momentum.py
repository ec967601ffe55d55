"""Heavy-ball momentum of either sign: each player keeps a share β of its last move.

    d_i(t) = g_i(t) + β d_i(t−1),      into SGD(lr=η):  θ⁺ = θ + β(θ − θ⁻) − η g

For one player this is the ball in a potential well: ẍ = −∇f − μẋ with time step δ, β = 1 − μδ, η = δ². In a game
positive momentum feeds the spin and a negative one damps it. `torch.optim.SGD` refuses negative momentum, so it is a
rule.

References: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, equation 9; Gidel et al.,
"Negative Momentum for Improved Game Dynamics", AISTATS 2019, equation 5.
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

__all__ = ["PolyakMomentum"]


@final
class PolyakMomentum(AbstractGameRule):
    """d_i = g_i + β d_i⁻. Cost: one gradient per player update. State: the last direction of each player.

    Args:
        beta: β in (−1, 1), dimensionless; below 0 it is negative momentum.

    Raises:
        ConfigurationError: beta out of its range.

    Example:
        In alternating play on xy, negative momentum converges where gradient play circles:

        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame([[1.0]])
        >>> path = simulate(PolyakMomentum(beta=-0.5), game, lr=0.5, steps=200, play="alternating")
        >>> path.distances[-1] < 1e-2 * path.distances[0]
        True
    """

    cost = Cost(gradients=2)
    affine = True

    def __init__(self, beta: float = 0.5) -> None:
        check_arguments(PolyakMomentum, locals())
        self.beta = require_number("beta", beta, low=-1, high=1, closed=False, why="momentum must decay")

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Of both signs."""
        return [cls(0.5), cls(-0.5)]

    def init(self, point: Point) -> RuleState:
        """Nobody has moved."""
        return {"direction": {}}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """g_i + β d_i⁻ for each moving player."""
        last, directions, remembered = state["direction"], {}, {}
        for player in players:
            direction = snapshot(oracle.gradient(player))
            if player in last:
                direction = weighted_sum([(1.0, direction), (self.beta, last[player])])
            directions[player], remembered[player] = direction, snapshot(direction)
        return directions, {"direction": last | remembered}

"""Alex-GDA, alternating-extrapolation gradient play: each player faces a point on the line of the other's last move.

    x⁺ = x − η ∇ₓLₓ(x, ỹ),      x̃⁺ = x + γ(x⁺ − x)
    y⁺ = y − η ∇ᵧLᵧ(x̃⁺, y),     ỹ⁺ = y + δ(y⁺ − y),        ỹ = y at the start

x is the player that moves first. γ = δ = 1 is alternating gradient play, and γ = 0, δ = 1 simultaneous; above 1 a
point lies ahead of the player. It is LEAD's extrapolated form with a coupling of δ − 1 for the first player and of
γ − 1 for the second, which LEAD sets by the momentum.

Reference: Lee, Cho and Yun, "Fundamental Benefit of Alternating Updates in Minimax Optimization", ICML 2024; the
authors' code (HanseulJo/Alex-GDA) has it for GANs with Adam, with γ for the discriminator's move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules._anchors import gradient_by_weights, start_anchors
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["AlexGDA"]


@final
class AlexGDA(AbstractGameRule):
    """d_i = ∇_i L_i(θ_i, θ_j + (γ_j − 1)Δ_j), γ_j being γ of the first player and δ of the second.

    Cost: one gradient per player update. State: where each player stood whose γ_j is not 1.

    Args:
        gamma: γ ≥ 0, of the first player's move as the second one meets it: 0 before it, 1 after it, 2 once more.
        delta: δ ≥ 0, of the second player's move as the first one meets it.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(AlexGDA(), BilinearGame([[1.0]]), lr=0.5, steps=100)
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    cost = Cost(gradients=2)
    affine = True
    plays: tuple[Play, ...] = ("alternating",)

    def __init__(self, gamma: float = 2.0, *, delta: float = 2.0) -> None:
        check_arguments(AlexGDA, locals())
        why = "0 is before the move, 1 after it, and what lies before 0 the player has left"
        self.gamma = require_number("gamma", gamma, low=0, high=float("inf"), why=why)
        self.delta = require_number("delta", delta, low=0, high=float("inf"), why=why)
        ahead = (self.gamma, self.delta) != (1, 1)
        self.needs = RuleNeeds(uses_opponent=ahead, displaces=ahead)

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """With both points ahead, by as much and by unequal parts, and the two cases that it contains."""
        return [cls(), cls(1.5, delta=3.0), cls(1.0, delta=1.0), cls(0.0, delta=1.0)]

    def init(self, point: Point) -> RuleState:
        """A copy of the parameters of each player that is met elsewhere than where it is; none has moved yet."""
        parts = dict(zip(point, (self.gamma, self.delta), strict=False))  # γ = δ = 1 is for any number of players
        return start_anchors({name: point[name] for name, part in parts.items() if part != 1})

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Each moving player's gradient, against the other one's point on the line of its last move."""
        if not self.needs.uses_opponent:
            return {player: oracle.gradient(player) for player in players}, start_anchors({})
        weights = dict(zip(oracle.names, (self.delta - 1, self.gamma - 1), strict=True))
        return gradient_by_weights(oracle, players, state, weights)

"""Level-k gradient play: each player answers the move that it expects, k levels deep.

    x⁽⁰⁾ = x,  y⁽⁰⁾ = y;        x⁽ᵏ⁾ = x − η ∇ₓLₓ(x, y⁽ᵏ⁻¹⁾),   y⁽ᵏ⁾ = y − η ∇ᵧLᵧ(x⁽ᵏ⁻¹⁾, y)

Level 1 is simultaneous gradient play. As k grows, x⁽ᵏ⁾ tends to the point where each has answered the other's final
answer, the semi-proximal point; on bilinear games that is the proximal point method. Expected moves are the optimizer's
own next steps.

Reference: Liu and Pavel, "Recursive Reasoning in Minimax Games: A Level k Gradient Play Method", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["LevelK"]


@final
class LevelK(AbstractGameRule):
    """d_i = ∇_i L_i(θ_i, θ_j⁽ᵏ⁻¹⁾). Cost: k gradients per player update. No state.

    Args:
        level: k ≥ 1.

    Raises:
        ConfigurationError: level is no integer ≥ 1.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(LevelK(level=4), BilinearGame([[1.0]]), lr=0.5, steps=100)
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    affine = True
    plays: tuple[Play, ...] = ("simultaneous",)

    def __init__(self, level: int = 2) -> None:
        check_arguments(LevelK, locals())
        if level < 1:
            raise ConfigurationError(f"Cannot reason to level={level!r}; pass an integer ≥ 1, 1 is plain gradient play")
        self.level = level
        self.cost = Cost(gradients=2 * level)
        self.needs = RuleNeeds(repeats_batch=level > 1, uses_opponent=level > 1, plays_several=True)

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Of several depths."""
        return [cls(2), cls(1), cls(5)]

    def init(self, point: Point) -> RuleState:
        """No state."""
        return {}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Each player's gradient at its own level, against the opponent one level below."""
        directions = {player: oracle.gradient(player) for player in players}
        for _ in range(self.level - 1):
            there, directions = oracle.ahead(directions), {}
            for player in players:
                directions[player] = oracle.gradient(player, at={**there, player: oracle.point[player]})
        return directions, state

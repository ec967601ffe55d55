"""Plain gradient play: each player descends its own loss and ignores that the other one moves.

    d_i = ∇_i L_i

With SGD this is gradient descent-ascent (alternating or simultaneous) and, for one player, gradient descent; with Adam
it is the usual way GANs are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._types import Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleState

__all__ = ["GradientPlay"]


@final
class GradientPlay(AbstractGameRule):
    """d_i = ∇_i L_i. Cost: one gradient per player update. No state.

    Example:
        >>> import torch
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame(torch.eye(1, dtype=torch.float64))
        >>> point = {"x": (torch.ones(1, dtype=torch.float64),), "y": (torch.ones(1, dtype=torch.float64),)}
        >>> oracle = GameOracle(point, [lambda p, wanted, *, replay: game.losses(p)])
        >>> rule = GradientPlay()
        >>> directions, _ = rule.direction(oracle, ["x", "y"], rule.init(point))
        >>> directions["x"][0].item(), directions["y"][0].item()
        (1.0, -1.0)
    """

    cost = Cost(gradients=2)
    affine = True

    def init(self, point: Point) -> RuleState:
        """No state."""
        return {}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Each moving player's own gradient."""
        return {player: oracle.gradient(player) for player in players}, state

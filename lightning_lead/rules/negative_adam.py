"""Adam with a first moment of either sign, which `torch.optim.Adam` refuses: negative momentum for Adam.

    m⁺ = β₁ m + (1 − β₁) g,    v⁺ = β₂ v + (1 − β₂) g²,    d = m̂ / (√v̂ + ε),    m̂ = m⁺/(1 − β₁ᵗ),  v̂ = v⁺/(1 − β₂ᵗ)

Reference: Kingma and Ba, "Adam", ICLR 2015, Algorithm 1; for β₁ < 0 in games, Gidel et al., "Negative Momentum for
Improved Game Dynamics", AISTATS 2019, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules._real import check_real
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["NegativeAdam"]


@final
class NegativeAdam(AbstractGameRule):
    """Adam whose β₁ may be negative. Cost: one gradient per player update. State: both moments and a count.

    It takes plain steps: the learning rate is the module's, and no other optimizer follows.

    Args:
        beta1: β₁ in (−1, 1).
        beta2: β₂ in (0, 1).
        eps: ε > 0, in units of the gradient.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import QuadraticGame
        >>> path = simulate(NegativeAdam(), QuadraticGame([[1.0]], curvature=0.5), lr=0.01, steps=300)
        >>> path.distances[-1] < 0.1 * path.distances[0]
        True
    """

    cost = Cost(gradients=2)
    needs = RuleNeeds(requires_sgd=True)

    def __init__(self, beta1: float = -0.5, *, beta2: float = 0.9, eps: float = 1e-8) -> None:
        check_arguments(NegativeAdam, locals())
        self.beta1 = require_number("beta1", beta1, low=-1, high=1, closed=False, why="momentum must decay")
        self.beta2 = require_number("beta2", beta2, low=0, high=1, closed=False, why="it averages squares")
        self.eps = require_number("eps", eps, low=0, high=float("inf"), closed=False, why="it keeps a quotient finite")

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Of both signs."""
        return [cls(), cls(beta1=0.5)]

    def init(self, point: Point) -> RuleState:
        """Nobody has moved."""
        check_real(self.name, point)
        return {"moments": {}}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """m̂ / (√v̂ + ε) for each moving player."""
        moments: dict[str, Any] = state["moments"] | {}
        directions = {}
        for player in players:
            gradient = oracle.gradient(player)
            zeros = tuple(torch.zeros_like(g) for g in gradient)
            first, second, count = moments.get(player, (zeros, zeros, 0))
            first = tuple(self.beta1 * m + (1 - self.beta1) * g for m, g in zip(first, gradient, strict=True))
            second = tuple(self.beta2 * v + (1 - self.beta2) * g * g for v, g in zip(second, gradient, strict=True))
            count += 1
            scale = (1 - self.beta1**count, 1 - self.beta2**count)
            moments[player] = (first, second, count)
            directions[player] = tuple(
                (m / scale[0]) / ((v / scale[1]).sqrt() + self.eps) for m, v in zip(first, second, strict=True)
            )
        return directions, {"moments": moments}

"""Extragradient: step, look, and step again from where you were.

    θ̃ = θ − η v(θ),        d = v(θ̃),        θ⁺ = θ − η v(θ̃),        v = (g_x, g_y)

Both players look ahead together, on the same batch. The look-ahead is the optimizer's own next step, so with Adam it is
preconditioned as the step will be; its moments then see the second gradient alone. `ExtraAdam` lets them see both.

References: Korpelevich, "The extragradient method", 1976; Gidel et al., "A Variational Inequality Perspective on
Generative Adversarial Networks", ICLR 2019, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus._players import weighted_sum
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["Extragradient"]


@final
class Extragradient(AbstractGameRule):
    """d = v(θ − γη v(θ)). Cost: two gradients per player update. No state.

    Args:
        stretch: γ > 0, the length of the look-ahead in steps of the optimizer; 1 is the classical method.

    Raises:
        ConfigurationError: stretch out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(Extragradient(), BilinearGame([[1.0]]), lr=0.5, steps=100)
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    needs = RuleNeeds(repeats_batch=True, uses_opponent=True, plays_several=True)
    cost = Cost(gradients=4)
    affine = True
    plays: tuple[Play, ...] = ("simultaneous",)

    def __init__(self, stretch: float = 1.0) -> None:
        check_arguments(Extragradient, locals())
        self.stretch = require_number(
            "stretch", stretch, low=0, high=float("inf"), closed=False, why="it is the length of a look-ahead"
        )

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """With equal and with two step sizes."""
        return [cls(), cls(stretch=2.0)]

    def init(self, point: Point) -> RuleState:
        """No state."""
        return {}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """The gradients at the look-ahead."""
        here = {player: oracle.gradient(player) for player in players}
        stretched = {player: weighted_sum([(self.stretch, g)]) for player, g in here.items()}
        there = oracle.ahead(stretched, fraction=self.stretch)
        return {player: oracle.gradient(player, at=there) for player in players}, state

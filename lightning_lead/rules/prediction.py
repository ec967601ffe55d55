"""Prediction: one player faces the other where its last move, made again, would take it.

    x⁺ = x − η ∇ₓLₓ(x, y),      x̄ = x⁺ + (x⁺ − x),      y⁺ = y − η ∇ᵧLᵧ(x̄, y)

x is the player whose move is predicted. In the paper it minimises, and in a GAN it is the generator, "G prediction";
which of the two begins changes the first step alone. Only the point of a gradient changes, so any optimizer makes the
steps. It is LEAD's extrapolated form with a coupling of 1 for one player and of 0 for the other, and on bilinear games
the primal-dual method of Chambolle and Pock, 2011.

Reference: Yadav, Shah, Xu, Jacobs and Goldstein, "Stabilizing Adversarial Nets with Prediction Methods", ICLR 2018,
equation 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from lightning_lead._arguments import check_arguments
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules._anchors import gradient_by_weights, start_anchors
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["Prediction"]


@final
class Prediction(AbstractGameRule):
    """d_i = ∇_i L_i(θ_i, θ_j + Δ_j) for the one player that faces a prediction, g_j for the other.

    Cost: one gradient per player update. State: where the predicted player stood.

    Args:
        predicted: whose move is predicted, in the order of play: "second", in a GAN the generator, as in the paper;
            "first", in a GAN the discriminator; or "both", which the paper tries on a toy problem.

    Raises:
        ConfigurationError: `predicted` is none of them.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(Prediction(), BilinearGame([[1.0]]), lr=0.5, steps=100)
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    needs = RuleNeeds(uses_opponent=True, displaces=True)
    cost = Cost(gradients=2)
    affine = True
    plays: tuple[Play, ...] = ("alternating",)

    def __init__(self, predicted: Literal["second", "first", "both"] = "second") -> None:
        check_arguments(Prediction, locals())
        self.predicted = predicted

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Of either player, and of both."""
        return [cls(), cls("first"), cls("both")]

    def init(self, point: Point) -> RuleState:
        """A copy of each predicted player's parameters; none has moved yet."""
        first, second = point
        names = {"first": [first], "second": [second], "both": [first, second]}[self.predicted]
        return start_anchors({name: point[name] for name in names})

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Each moving player's gradient, against the prediction if the opponent is predicted."""
        first, second = oracle.names
        weights = {first: float(self.predicted != "first"), second: float(self.predicted != "second")}
        return gradient_by_weights(oracle, players, state, weights)

"""ODE-GAN: the joint gradient flow, integrated by a Runge-Kutta scheme.

    θ̇ = −v(θ),  v = (g_x, g_y):      k_s = v(θ − η Σ_r a_sr k_r),      d = Σ_s b_s k_s
    the first player's, regularised:  d_x + λ ∇ₓ‖∇ᵧLᵧ‖²  at the point before the step

In a GAN the first player is the discriminator, and the penalty is on the norm of the generator's gradient. As in the
paper's Algorithm 1 its gradient belongs to the point before the step and enters after it, with λ; all stages and the
penalty look at one batch and one draw of latents. The authors' CIFAR-10 code does otherwise: every stage draws new
images and latents, and the penalty is added to the first stage's gradient, with λ/b₁, so that it moves the first
look-ahead too.

Reference: Qin et al., "Training Generative Adversarial Networks by Solving Ordinary Differential Equations", NeurIPS
2020, Algorithm 1 and section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus._players import weighted_sum
from lightning_lead.calculus._terms import HessianTerm
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["ODEGAN"]


class _Tableau(NamedTuple):
    """An explicit Runge-Kutta scheme: coefficients of the stages after the first one, and weights."""

    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


_SCHEMES = {
    "euler": _Tableau((), (1.0,)),
    "heun": _Tableau(((1.0,),), (1 / 2, 1 / 2)),
    "rk4": _Tableau(((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


@final
class ODEGAN(AbstractGameRule):
    """Runge-Kutta on the joint field, with the paper's regularisation of the gradient's norm.

    Cost per player update: a gradient per stage (1, 2 or 4); with regularisation one Hessian product more for the first
    player. No state. The step size is the learning rate, one per player.

    Args:
        scheme: "euler", "heun" (order 2) or "rk4" (order 4).
        regularization: λ ≥ 0, per unit of the loss; 0 leaves the second derivative out.

    Raises:
        ConfigurationError: an unknown scheme, or a negative λ.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(ODEGAN("rk4", regularization=0.1), BilinearGame([[1.0]]), lr=0.5, steps=200)
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    affine = True
    plays: tuple[Play, ...] = ("simultaneous",)

    def __init__(self, scheme: Literal["euler", "heun", "rk4"] = "rk4", *, regularization: float = 0.01) -> None:
        check_arguments(ODEGAN, locals())
        self.scheme = scheme
        self.regularization = require_number(
            "regularization", regularization, low=0, high=float("inf"), why="it weighs a penalty"
        )
        self.cost = Cost(2 * len(_SCHEMES[scheme].weights), int(self.regularization > 0))
        repeats = self.scheme != "euler" or self.regularization > 0
        self.needs = RuleNeeds(
            second_order=self.regularization > 0,
            repeats_batch=repeats,
            uses_opponent=repeats,
            requires_sgd=True,
            plays_several=self.regularization == 0,
            unconstrained=self.regularization > 0,
            fallback="ODEGAN(regularization=0)",
        )

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Every scheme, and without regularisation."""
        return [cls(), cls("heun"), cls("euler"), cls("rk4", regularization=0.0)]

    def init(self, point: Point) -> RuleState:
        """No state."""
        return {}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Σ b_s k_s, and the penalty's gradient for the first player."""
        tableau = _SCHEMES[self.scheme]
        fields = [{player: oracle.gradient(player) for player in players}]
        for row in tableau.stages:
            there = oracle.ahead(_combined(row, fields, players), fraction=sum(row))
            fields.append({player: oracle.gradient(player, at=there) for player in players})
        directions = _combined(tableau.weights, fields, players)
        if self.regularization > 0:
            first, second = players
            pull = oracle.hessian_product(first, [HessianTerm(second, second, fields[0][second])])
            directions[first] = weighted_sum([(1.0, directions[first]), (2 * self.regularization, pull)])
        return directions, state


def _combined(
    weights: Sequence[float], fields: Sequence[dict[str, Vector]], players: Sequence[str]
) -> dict[str, Vector]:
    used = [(weight, field) for weight, field in zip(weights, fields, strict=True) if weight]
    return {player: weighted_sum([(weight, field[player]) for weight, field in used]) for player in players}

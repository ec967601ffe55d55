"""Symplectic gradient adjustment: turn the joint gradient back by the antisymmetric part of its Jacobian.

    J = S + A,  S = Sᵀ,  A = −Aᵀ:      d = v + λ Aᵀv,        (Aᵀv)_i = ½ [(∂²L_j/∂θ_i∂θ_j) − (∂²L_i/∂θ_i∂θ_j)] g_j
    aligned:  λ takes the sign of  ⟨v, Jᵀv⟩ ⟨Aᵀv, Jᵀv⟩ / n + ε,      ε = 1/10,  n the number of parameters

The sign makes the adjustment attract to stable fixed points and repel from unstable ones.

Reference: Letcher et al., "Differentiable Game Mechanics", JMLR 2019, Algorithm 1 (Balduzzi et al., ICML 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus._players import inner, opponent_of, weighted_sum
from lightning_lead.calculus._terms import HessianTerm
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["SymplecticGradientAdjustment"]


@final
class SymplecticGradientAdjustment(AbstractGameRule):
    """d = v ± λ Aᵀv. Cost per player update: one gradient and two Hessian products, three with alignment. No state.

    Args:
        weight: λ ≥ 0, in units of 1 / curvature of the loss.
        align: choose the sign of λ by the direction of ∇½‖v‖²; without it λ is positive.

    Raises:
        ConfigurationError: weight out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(SymplecticGradientAdjustment(weight=1.0), BilinearGame([[1.0]]), lr=0.3, steps=100)
        >>> path.distances[-1] < 1e-6 * path.distances[0]
        True
    """

    needs = RuleNeeds(second_order=True, repeats_batch=True, uses_opponent=True, unconstrained=True, compares=True)
    plays: tuple[Play, ...] = ("simultaneous",)

    def __init__(self, weight: float = 0.5, *, align: bool = True) -> None:
        check_arguments(SymplecticGradientAdjustment, locals())
        self.weight = require_number("weight", weight, low=0, high=float("inf"), why="alignment chooses its sign")
        self.align = bool(align)
        self.affine = not self.align
        self.cost = Cost(gradients=2, hessian_products=6 if self.align else 4)

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """With alignment and without."""
        return [cls(), cls(align=False)]

    def init(self, point: Point) -> RuleState:
        """No state."""
        return {}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """v ± λ Aᵀv."""
        field = {player: oracle.gradient(player) for player in players}
        adjustment, hamiltonian = {}, {}
        for player in players:
            other = opponent_of(player, players)
            theirs = oracle.hessian_product(player, [HessianTerm(other, other, field[other])])
            own = oracle.hessian_product(player, [HessianTerm(player, other, field[other])])
            adjustment[player] = weighted_sum([(0.5, theirs), (-0.5, own)])
            if self.align:
                bend = oracle.hessian_product(player, [HessianTerm(player, player, field[player])])
                hamiltonian[player] = weighted_sum([(1.0, theirs), (1.0, bend)])
        if self.align:
            joint = [tuple(t for player in players for t in part[player]) for part in (field, adjustment, hamiltonian)]
            count = sum(t.numel() for t in joint[0])
            alignment = inner(joint[0], joint[2]) * inner(joint[1], joint[2]) / count + 0.1
            sign = alignment.sign()  # stays on the device: to read it is to wait
            adjustment = {p: tuple(sign.to(t.real.dtype) * t for t in adjustment[p]) for p in players}
        return {p: weighted_sum([(1.0, field[p]), (self.weight, adjustment[p])]) for p in players}, state

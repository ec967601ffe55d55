"""LEAD, Least Action Dynamics: a gradient plus the force that stops the spin.

    d_i = g_i + a·c_i,     c_i one of
        opponent form      −∇_i ⟨∇_j L_j, Δ_j⟩        (the paper's; default)
        own form           +∇_i ⟨∇_j L_i, Δ_j⟩
        difference         ∇_i L_i(θ_i, θ_j) − ∇_i L_i(θ_i, θ_j − Δ_j)

Δ_j is how far the opponent has moved since player i's own previous update. d into SGD(lr=η, momentum=β) is

    x⁺ = x + β(x − x⁻) − η ∇ₓf − α (∇²ₓᵧf)(y − y⁻),     a = α/η
    y⁺ = y + β(y − y⁻) + η ∇ᵧf + α (∇²ᵧₓf)(x − x⁻),

Algorithm 1 of Askari Hemmat, Mitra, Lajoie, Mitliagkas, "LEAD: Min-Max Optimization from a Physical Perspective",
TMLR 2023. d into Adam, whose moments both see d, is LEAD-Adam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch

from lightning_lead._errors import ConfigurationError
from lightning_lead._typing import CrossForm, Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.players import opponent_of
from lightning_lead.calculus.terms import CrossTerm
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleState

__all__ = ["LEAD"]


@final
class LEAD(AbstractGameRule):
    """Least Action Dynamics, d_i = g_i + a·c_i.

    Cost per player update: with `cross="exact"`, one gradient, the opponent's gradient and its derivative; with
    `cross="difference"`, two gradients. With a = 0, or while the opponent has not moved, one gradient.

    Args:
        alpha: the coupling a in gradient units, a = α/η of the paper; dimensionless, finite, ≥ 0. a ≈ 1 looks ahead
            by one step of the opponent. One number for both players, or player -> its own, as in
            {"discriminator": 0.5, "generator": 0.01}.
        cross: "exact" differentiates twice; "difference" evaluates the gradient against the opponent as it was. On
            piecewise-linear networks these are two different algorithms: autograd drops the kinks that a finite
            displacement sees.
        form: of the exact term: "opponent" (the paper's code) or "own"; they agree in zero-sum games.
        cross_fraction: share of each batch that the cross term is estimated on, in (0, 1]. Unbiased, because the term
            is linear in the loss, where samples are looked at one by one; batch norm sees the smaller batch.

    Raises:
        ConfigurationError: alpha negative or not finite, or, at fit start, of other players; an unknown cross or form;
            a fraction out of its range.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame(torch.eye(1, dtype=torch.float64))
        >>> point = {"x": (torch.ones(1, dtype=torch.float64),), "y": (torch.ones(1, dtype=torch.float64),)}
        >>> rule, start = LEAD(alpha=1.0), game.distance(point)
        >>> state = rule.init(point)
        >>> for _ in range(200):
        ...     oracle = GameOracle(point, [lambda p, wanted, *, replay: game.losses(p)])
        ...     d, state = rule.direction(oracle, ["x", "y"], state)
        ...     point = {k: (v[0] - 0.3 * d[k][0],) for k, v in point.items()}
        >>> bool(game.distance(point) < 1e-3 * start)
        True
    """

    starts_here = True
    affine = True
    first_order = "LEADStrategy(cross='difference')"

    def __init__(
        self,
        alpha: float | Mapping[str, float] = 1.0,
        *,
        cross: Literal["exact", "difference"] = "exact",
        form: Literal["opponent", "own"] = "opponent",
        cross_fraction: float = 1.0,
    ) -> None:
        couplings = list(alpha.values()) if isinstance(alpha, Mapping) else [alpha, alpha]
        if len(couplings) != 2 or not all(map(_is_coupling, couplings)):
            raise ConfigurationError(
                "Cannot use alpha because it must be a finite number ≥ 0 (a negative one adds to the spin), or one for "
                f"each of the two players by name; try 1.0 (got {alpha!r})"
            )
        if cross not in ("exact", "difference"):
            raise ConfigurationError(f"Cannot use cross={cross!r}; choose 'exact' or 'difference'")
        if form not in ("opponent", "own"):
            raise ConfigurationError(f"Cannot use form={form!r}; choose 'opponent' or 'own'")
        if cross == "difference" and form != "opponent":
            raise ConfigurationError(
                f"Cannot use form={form!r} with cross='difference' because forms are of the exact term; leave form out"
            )
        if (
            isinstance(cross_fraction, bool)
            or not isinstance(cross_fraction, (int, float))
            or not 0 < cross_fraction <= 1
        ):
            raise ConfigurationError(
                "Cannot use cross_fraction because it must be a share of the batch in (0, 1]; 1 is all of it "
                f"(got {cross_fraction!r})"
            )
        self.alpha = {k: float(a) for k, a in alpha.items()} if isinstance(alpha, Mapping) else float(alpha)
        self.cross, self.form, self.cross_fraction = cross, form, float(cross_fraction)
        coupled = sum(a > 0 for a in couplings)  # players
        exact = cross == "exact"
        self.cost = Cost(gradients=2, hessian_products=coupled) if exact else Cost(gradients=2 + coupled)
        self.couples = coupled > 0
        self.second_order = self.couples and exact
        self.revisits = self.couples and (not exact or self.cross_fraction < 1)
        self.subtracts = self.couples and not exact

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Every form, and without coupling."""
        return [cls(), cls(form="own"), cls(cross="difference"), cls(0.0)]

    def init(self, point: Point) -> RuleState:
        """Anchors: a copy of each player's parameters at the moment the opponent last updated; none has moved yet."""
        if isinstance(self.alpha, dict) and set(self.alpha) != set(point):
            raise ConfigurationError(
                "Cannot couple the players because alpha names others; give one number for each of "
                f"{sorted(point)}, or one for both (got {self.alpha!r})"
            )
        if not self.couples:
            return {}
        return {"anchor": {name: _copy(v) for name, v in point.items()}, "moved": dict.fromkeys(point, False)}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """g_i + a·c_i for each moving player; see the module's head."""
        if not self.couples:
            return {player: oracle.gradient(player) for player in players}, state
        form: CrossForm = "difference" if self.cross == "difference" else self.form
        anchor, moved = dict(state["anchor"]), dict(state["moved"])
        directions = {}
        for player in players:
            opponent = opponent_of(player, oracle.names)
            coupling = self.alpha[player] if isinstance(self.alpha, dict) else self.alpha
            cross = None
            # a flag, not a norm: no synchronisation, and nothing is paid for a Δ of zero
            if moved[opponent] and coupling > 0:
                now, before = oracle.point[opponent], state["anchor"][opponent]
                displacement = tuple(
                    torch._foreach_sub([p.to(b.dtype) for p, b in zip(now, before, strict=True)], before)
                )
                cross = CrossTerm(coupling, displacement, form, self.cross_fraction)
            directions[player] = oracle.gradient(player, cross=cross)
            if moved[opponent]:  # after the step's peak of memory
                anchor[opponent], moved[opponent] = _copy(oracle.point[opponent]), False
        for player in players:
            moved[player] = True
        return directions, {"anchor": anchor, "moved": moved}


def _is_coupling(a: Any) -> bool:
    return isinstance(a, (int, float)) and not isinstance(a, bool) and math.isfinite(a) and a >= 0


def _copy(vector: Vector) -> Vector:
    """Own copies in at least float32: an alias of the live weights would make every displacement zero."""
    return tuple(p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in vector)

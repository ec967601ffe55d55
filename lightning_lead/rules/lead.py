"""LEAD, Least Action Dynamics: a gradient plus the force that stops the spin.

    d_i = g_i + a·c_i,     c_i one of
        opponent form      −∇_i ⟨∇_j L_j, Δ_j⟩        (the paper's; default)
        own form           +∇_i ⟨∇_j L_i, Δ_j⟩
        difference         ∇_i L_i(θ_i, θ_j) − ∇_i L_i(θ_i, θ_j − Δ_j)
    d_i = ∇_i L_i(θ_i, θ_j + a·Δ_j)                   extrapolated: one gradient, and no c
    d_i = whichever of exact and extrapolated         auto: extrapolated as long as the two agree

Δ_j is how far the opponent has moved since player i's own previous update; of several opponents j each has its own, and
a term is the sum over them. d into SGD(lr=η, momentum=β) is

    x⁺ = x + β(x − x⁻) − η ∇ₓf − α (∇²ₓᵧf)(y − y⁻),     a = α/η
    y⁺ = y + β(y − y⁻) + η ∇ᵧf + α (∇²ᵧₓf)(x − x⁻),

Algorithm 1 of Askari Hemmat, Mitra, Lajoie, Mitliagkas, "LEAD: Min-Max Optimization from a Physical Perspective",
TMLR 2023. d into Adam, whose moments both see d, is LEAD-Adam.

On a quadratic game g_i is affine in θ_j, so the extrapolated form is g_i + a·c_i in own form. It is the prediction step
of Yadav et al., "Stabilizing Adversarial Nets with Prediction Methods", ICLR 2018 (one player, a = 1) and, without
momentum, Alex-GDA of Lee, Cho and Yun, ICML 2024; for one player it goes back to Chambolle and Pock, "A First-Order
Primal-Dual Algorithm", 2011.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, final

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import CrossForm, Point, Vector
from lightning_lead.calculus._players import joined, opponents_of
from lightning_lead.calculus._terms import CrossTerm
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules._agreement import FormRecord, agreement
from lightning_lead.rules._anchors import follow, gradient_ahead, opponents_before, start_anchors
from lightning_lead.rules._coupling import check_coupling, coupling_by_momentum, renamed_alpha
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["LEAD"]

_SETTINGS = {
    "exact": ("form", "cross_fraction"),
    "difference": ("cross_fraction",),
    "extrapolated": (),
    "auto": ("check_every", "least_agreement", "fallback"),
}
"""Settings of each cross besides the coupling."""


@final
class LEAD(AbstractGameRule):
    """Least Action Dynamics, d_i = g_i + a·c_i, or d_i = ∇_i L_i(θ_i, θ_j + a·Δ_j).

    Cost per player update: with `cross="extrapolated"`, one gradient; with "exact", one gradient, the opponent's
    gradient and its derivative; with "difference", two gradients. With a = 0, or while the opponent has not moved, one.
    With "auto", that of the form in force, and at every `check_every`-th turn two gradients and a cross term more.

    Args:
        coupling: a in gradient units, a = α/η of the paper; dimensionless, finite, ≥ 0. a ≈ 1 looks ahead by one step
            of the opponent. "auto" sets it by the moving player's own momentum (see `rules._coupling`); one number is
            for all players; player -> number is each one's own, as in {"discriminator": 0.5, "generator": 0.01}.
        cross: "exact" differentiates twice; "difference" evaluates the gradient against the opponent as it was;
            "extrapolated" evaluates it once, against the opponent as it would be after `a` more moves. On
            piecewise-linear networks these are three different algorithms: autograd drops the kinks that a finite
            displacement sees. "auto" is "extrapolated" as long as that agrees with the exact term in own form
            (see `rules._agreement`), and that exact term while it does not, for each player by itself.
        form: of the exact term: "opponent" (the paper's code; default) or "own"; they agree in zero-sum games.
        cross_fraction: share of each batch that the cross term is estimated on, in (0, 1]. Unbiased, because the term
            is linear in the loss, where samples are looked at one by one; batch norm sees the smaller batch.
        check_every: for "auto", turns of a player between two comparisons, ≥ 1.
        least_agreement: for "auto", the agreement from which on the extrapolated form is in force, in [−1, 1].
        fallback: for "auto", what is compared with and taken instead: "exact", or "difference", which needs no second
            derivative; where a layer has none, fit start changes to it by itself.
        alpha: deprecated name of `coupling`.

    Raises:
        ConfigurationError: a coupling negative or not finite, or, at fit start, of other players; "auto" with an
            optimizer that does not say its momentum; an unknown cross or form; a fraction out of its range.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame(torch.eye(1, dtype=torch.float64))
        >>> point = {"x": (torch.ones(1, dtype=torch.float64),), "y": (torch.ones(1, dtype=torch.float64),)}
        >>> rule, start = LEAD(1.0), game.distance(point)
        >>> state = rule.init(point)
        >>> for _ in range(200):
        ...     oracle = GameOracle(point, [lambda p, wanted, *, replay: game.losses(p)])
        ...     d, state = rule.direction(oracle, ["x", "y"], state)
        ...     point = {k: (v[0] - 0.3 * d[k][0],) for k, v in point.items()}
        >>> bool(game.distance(point) < 1e-3 * start)
        True
    """

    def __init__(
        self,
        coupling: float | Mapping[str, float] | Literal["auto"] = "auto",
        *,
        cross: Literal["exact", "difference", "extrapolated", "auto"] = "exact",
        form: Literal["opponent", "own"] | None = None,
        cross_fraction: float = 1.0,
        check_every: int = 25,
        least_agreement: float = 0.5,
        fallback: Literal["exact", "difference"] = "exact",
        alpha: float | Mapping[str, float] | None = None,
    ) -> None:
        check_arguments(LEAD, locals(), but=("coupling",))
        self.coupling = check_coupling(coupling if alpha is None else renamed_alpha(alpha, coupling))
        if cross != "exact" and form is not None:
            raise ConfigurationError(
                f"Cannot use form={form!r} with cross={cross!r} because forms are of the exact term; leave form out"
            )
        if not 0 < cross_fraction <= 1:
            raise ConfigurationError(
                "Cannot use cross_fraction because it must be a share of the batch in (0, 1]; 1 is all of it "
                f"(got {cross_fraction!r})"
            )
        if cross in ("extrapolated", "auto") and cross_fraction < 1:
            raise ConfigurationError(
                f"Cannot use cross_fraction with cross={cross!r} because the gradient at the displaced opponent is of "
                f"the whole batch; leave it out (got {cross_fraction!r})"
            )
        check_positive(check_every=check_every)
        if cross != "auto" and (check_every, least_agreement, fallback) != (25, 0.5, "exact"):
            raise ConfigurationError(
                f"Cannot compare forms with cross={cross!r}; leave check_every, least_agreement and fallback out, or "
                f"use cross='auto' (got {check_every!r}, {least_agreement!r} and {fallback!r})"
            )
        self.cross, self.cross_fraction = cross, float(cross_fraction)
        self.form: Literal["opponent", "own"] = form or ("own" if cross == "auto" else "opponent")
        self.check_every, self.fallback = check_every, fallback
        self.least_agreement = require_number(
            "least_agreement", least_agreement, low=-1, high=1, why="agreement is 1 at most, and −1 at least"
        )
        numbers = list(self.coupling.values()) if isinstance(self.coupling, dict) else [self.coupling] * 2
        coupled = sum(a == "auto" or a > 0 for a in numbers)  # players
        term = cross if cross != "auto" else fallback  # with which derivatives a cross term is formed, if one is
        self.needs = RuleNeeds(
            uses_opponent=coupled > 0,
            displaces=coupled > 0 and cross == "extrapolated",
            second_order=coupled > 0 and term == "exact",
            cancels=coupled > 0 and cross in ("difference", "auto"),
            repeats_batch=coupled > 0 and (cross == "auto" or term == "difference" or self.cross_fraction < 1),
            reads_momentum=self.coupling == "auto",
            plays_several=True,
            compares=coupled > 0 and cross == "auto",
            form=self.form,
            cross_fraction=self.cross_fraction,
            fallback="LEADStrategy(cross='extrapolated')",
        )
        self.affine = cross != "auto"  # a rule that decides is not one affine map
        self.period = check_every if coupled and cross == "auto" else 1  # between comparisons it is cheaper
        self.cost = {
            "exact": Cost(gradients=2, hessian_products=coupled),
            "difference": Cost(gradients=2 + coupled),
            "extrapolated": Cost(gradients=2),
            "auto": None if coupled else Cost(gradients=2),
        }[cross]

    def __repr__(self) -> str:
        """The name with the settings that the form has a use for; read by `--game`, it is the same rule."""
        names = ["coupling", "cross", *_SETTINGS[self.cross]]
        return f"LEAD({', '.join(f'{name}={vars(self)[name]!r}' for name in names)})"

    @property
    def alpha(self) -> float | dict[str, float] | Literal["auto"]:
        """Deprecated name of `coupling`."""
        renamed_alpha(0.0, "auto")
        return self.coupling

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Every form, with the law's coupling and with a number, and without coupling."""
        return [
            cls(),
            cls(1.0),
            cls(1.0, form="own"),
            cls(1.0, cross="difference"),
            cls(cross="extrapolated"),
            cls(1.0, cross="extrapolated"),
            cls(1.0, cross="auto", check_every=2, least_agreement=0.9),
            cls(0.0),
        ]

    def init(self, point: Point) -> RuleState:
        """Anchors: a copy of each player's parameters at the moment the opponent last updated; none has moved yet."""
        if isinstance(self.coupling, dict) and set(self.coupling) != set(point):
            raise ConfigurationError(
                "Cannot couple the players because coupling names others; give one number for each of "
                f"{sorted(point)}, or one for both (got {self.coupling!r})"
            )
        if not self.needs.uses_opponent:
            return {}
        checks = {"forms": {name: FormRecord()._asdict() for name in point}} if self.cross == "auto" else {}
        return start_anchors(point) | checks

    def differentiating_once(self) -> LEAD | None:
        """The same with the difference form as its fallback, if the forms check themselves."""
        if self.cross != "auto":
            return None
        return LEAD(
            self.coupling,
            cross="auto",
            check_every=self.check_every,
            least_agreement=self.least_agreement,
            fallback="difference",
        )

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Each moving player's direction; see the module's head."""
        if not self.needs.uses_opponent:
            return {player: oracle.gradient(player) for player in players}, {}  # anchors of before would grow old
        if "anchor" not in state:  # a run that went on without coupling goes on with it again
            state = self.init(oracle.point)
        directions, forms = {}, dict(state.get("forms", {}))
        for player in players:
            before = opponents_before(player, oracle.point, state)
            coupling = self._coupling_of(player, oracle, simultaneous=len(players) > 1)
            if before is None or coupling == 0:
                directions[player] = oracle.gradient(player)
                continue
            look = _Coupled(player, oracle, coupling, before, self)
            if self.cross == "auto":
                record = FormRecord(**forms.get(player, {}))  # a state of another form has none
                directions[player], forms[player] = self._checked(look, record)
            else:
                directions[player] = look.extrapolated() if self.cross == "extrapolated" else look.with_term()
        return directions, follow(oracle, players, state) | ({"forms": forms} if forms else {})

    def _checked(self, look: _Coupled, record: FormRecord) -> tuple[Vector, dict[str, Any]]:
        """The direction of the form in force, which is decided anew every so often, and the record after it."""
        direction = look.extrapolated() if record.extrapolates else look.with_term()  # the turn's real forward
        if record.turns % self.check_every == 0:
            before = record.extrapolates
            with look.oracle.precisely() as coarse:  # corrections are small, and what autocast rounds off may be larger
                ahead = direction if before and not coarse else look.extrapolated(replay=True)
                term = look.with_term(replay=True) if before or coarse else direction
                record = record.after(agreement(look.plain(), ahead, term), self.least_agreement)
            if record.extrapolates != before:
                direction = ahead if record.extrapolates else term
        look.oracle.notes |= {
            f"cross_agreement/{look.player}": record.agreement,
            f"cross_extrapolated/{look.player}": float(record.extrapolates),
        }
        return direction, record._replace(turns=record.turns + 1)._asdict()

    def _coupling_of(self, player: str, oracle: GameOracle, *, simultaneous: bool) -> float:
        if self.coupling != "auto":
            return self.coupling[player] if isinstance(self.coupling, dict) else self.coupling
        coupling = coupling_by_momentum(oracle.lag(player), simultaneous=simultaneous)
        oracle.notes[f"coupling/{player}"] = coupling
        return coupling


class _Coupled(NamedTuple):
    """A turn of a player whose opponents have come from `before`: the directions that can be asked for."""

    player: str
    oracle: GameOracle
    coupling: float
    before: Vector
    rule: LEAD

    def plain(self) -> Vector:
        return self.oracle.gradient(self.player, replay=True)

    def extrapolated(self, *, replay: bool = False) -> Vector:
        return gradient_ahead(self.oracle, self.player, self.coupling, self.before, replay=replay)

    def with_term(self, *, replay: bool = False) -> Vector:
        now = joined(self.oracle.point, opponents_of(self.player, self.oracle.names))
        wide = [p.to(b.dtype) for p, b in zip(now, self.before, strict=True)]
        displacement = tuple(torch._foreach_sub(wide, self.before))
        form: CrossForm = self.rule.form if self.rule.needs.second_order else "difference"
        term = CrossTerm(self.coupling, displacement, form, self.rule.cross_fraction)
        return self.oracle.gradient(self.player, cross=term, replay=replay)

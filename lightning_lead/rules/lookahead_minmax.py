"""Lookahead-minmax: play some game steps by another rule, then go back part of the way, both players at once.

    every k game steps:   θ⁺ = θ_slow + α (θ − θ_slow),   θ_slow⁺ = θ⁺

Reference: Chavdarova, Pagliardini, Stich, Fleuret and Jaggi, "Taming GANs with Lookahead-Minmax", ICLR 2021, Algorithm
1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._players import weighted_sum
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, RuleState
from lightning_lead.rules.gradient_play import GradientPlay
from lightning_lead.rules.lead import LEAD
from lightning_lead.rules.optimistic_adam import OptimisticAdam

__all__ = ["LookaheadMinmax"]


@final
class LookaheadMinmax(AbstractGameRule):
    """Every k game steps both players go back to θ_slow + α (θ − θ_slow). Cost: that of the inner rule.

    State: the slow weights, a count, and the inner rule's state. The optimizer's memory is left as it is.

    Args:
        steps: k ≥ 1, game steps between two returns.
        alpha: α in (0, 1], the part of the way that is kept.
        inner: the rule in between; default `GradientPlay()`.

    Raises:
        ConfigurationError: a setting out of its range, or an inner rule that is none.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> rule = LookaheadMinmax(steps=5, alpha=0.5)
        >>> path = simulate(rule, BilinearGame([[1.0]]), lr=0.3, steps=200, play="alternating")
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    def __init__(self, steps: int = 5, *, alpha: float = 0.5, inner: AbstractGameRule | None = None) -> None:
        check_arguments(LookaheadMinmax, locals())
        if steps < 1:
            raise ConfigurationError(f"Cannot look ahead by steps={steps!r}; pass an integer ≥ 1")
        self.steps = steps
        self.alpha = require_number("alpha", alpha, low=0, high=1, why="it is a part of the way")
        if self.alpha == 0:
            raise ConfigurationError("Cannot use alpha=0 because nothing would ever be kept; pass a part in (0, 1]")
        self.inner = inner if inner is not None else GradientPlay()
        self.period = steps * self.inner.period
        # the direction is the inner rule's
        self.needs = replace(self.inner.needs, adjusts_weights=True, adds_to_step=False)  # it averages points
        self.cost, self.plays, self.affine = self.inner.cost, self.inner.plays, self.inner.affine

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Around a rule without a memory, one with second derivatives, and one with a last word of its own."""
        return [cls(), *(cls(3, alpha=0.7, inner=rule) for rule in (LEAD(form="own"), OptimisticAdam()))]

    @property
    def name(self) -> str:
        """With the inner rule, if that is not plain gradient play."""
        inner = "" if isinstance(self.inner, GradientPlay) else f"({self.inner.name})"
        return f"LookaheadMinmax{inner}"

    def differentiating_once(self) -> LookaheadMinmax | None:
        """The same around what the inner rule would go on with."""
        inner = self.inner.differentiating_once()
        return None if inner is None else LookaheadMinmax(self.steps, alpha=self.alpha, inner=inner)

    def init(self, point: Point) -> RuleState:
        """Slow weights: a copy of the start."""
        slow = {name: tuple(p.detach().clone() for p in vector) for name, vector in point.items()}
        return {"slow": slow, "count": 0, "inner": self.inner.init(point)}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """The inner rule's."""
        directions, inner = self.inner.direction(oracle, players, state["inner"])
        return directions, state | {"inner": inner}

    def adjust_weights(
        self, before: Point, after: Point, players: Sequence[str], state: RuleState
    ) -> tuple[Point, RuleState]:
        """The inner rule's last word; after every k-th game step, part of the way back."""
        moved: Point = {}
        if self.inner.needs.adjusts_weights:
            moved, inner = self.inner.adjust_weights(before, after, players, state["inner"])
            state = state | {"inner": inner}
        if players[-1] != list(after)[-1]:  # the game step goes on
            return moved, state
        count = state["count"] + 1
        if count < self.steps:
            return moved, state | {"count": count}
        fast = {**after, **moved}
        back = {
            name: weighted_sum([(1 - self.alpha, slow), (self.alpha, fast[name])])
            for name, slow in state["slow"].items()
        }
        slow = {name: tuple(p.clone() for p in vector) for name, vector in back.items()}
        return back, state | {"count": 0, "slow": slow}

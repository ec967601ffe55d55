"""The base of game optimizers: a pure function from an oracle and a state to a direction and a state.

    direction(oracle, players, state) -> ({player: d}, state)

An ordinary `torch.optim` optimizer then moves the weights along d. A rule may move them once more after that, by
`adjust_weights`. To add one: a file here with the paper, the equations, the state and the class, and an export line in
`rules/__init__.py`; `docs/your_own_rule.md` shows how.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._lazy import warn_renamed
from lightning_lead._types import CrossForm, Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle

__all__ = ["AbstractGameRule", "Cost", "RuleNeeds", "RuleState"]

RuleState = dict[str, Any]
"""Plain nested dicts, tuples, bools, numbers and detached tensors: loads with `weights_only=True`."""


class Cost(NamedTuple):
    """Derivatives that a rule asks for in one game step of one update per player, once it is under way.

    Example:
        >>> Cost(gradients=2, hessian_products=2)
        Cost(gradients=2, hessian_products=2)
    """

    gradients: int
    hessian_products: int = 0


@dataclass(frozen=True, kw_only=True)
class RuleNeeds:
    """The demands of a rule on the game step that plays it; fit start checks that they can be met.

    Attributes:
        second_order: differentiates a gradient; fit start looks for layers that forbid it.
        form: of the cross term that it asks for, if it does; fit start takes this one.
        cross_fraction: share of the batch that the cross term is estimated on, in (0, 1].
        uses_opponent: a direction depends on how the opponent moves; fit start checks that the players meet.
        displaces: a turn evaluates its losses once, at a displaced opponent; nothing is replayed.
        repeats_batch: evaluates the same batch more than once; what a forward moves is kept for the replay.
        cancels: a direction is a difference of gradients of one batch, which are taken in full precision.
        zero_sum: is defined for zero-sum games; fit start checks that the losses are opposites.
        reads_momentum: depends on the optimizers' momentum; fit start checks that it can be read.
        requires_sgd: θ ← θ − η d is the whole method, so an optimizer with a memory of its own is refused.
        adjusts_weights: moves the weights once more after the optimizer, by `adjust_weights`.
        adds_to_step: `adjust_weights` adds to the optimizer's step, so a constraint follows their sum; otherwise it
            moves points, those that the constraint has left.
        compares: weighs whole directions by norms or inner products; of players that each rank has its own of there is
            no such number on one rank, and such a game is refused on several.
        plays_several: is defined for any number of players; other rules are for two, or for one.
        unconstrained: rests elsewhere than the game where a constraint holds a player, as a rule does whose direction
            is no multiple of the gradient at rest; such a game is refused.
        fallback: names a rule that differentiates once, for the error of layers without a second derivative.

    Example:
        >>> RuleNeeds(repeats_batch=True).second_order
        False
    """

    second_order: bool = False
    form: CrossForm = "opponent"
    cross_fraction: float = 1.0
    uses_opponent: bool = False
    displaces: bool = False
    repeats_batch: bool = False
    cancels: bool = False
    zero_sum: bool = False
    reads_momentum: bool = False
    requires_sgd: bool = False
    adjusts_weights: bool = False
    adds_to_step: bool = False
    compares: bool = False
    plays_several: bool = False
    unconstrained: bool = False
    fallback: str = "a rule that differentiates once, such as game='ExtraAdam'"

    def __post_init__(self) -> None:
        check_arguments(RuleNeeds, vars(self))
        if not 0 < self.cross_fraction <= 1:
            raise ConfigurationError(
                f"Cannot estimate a cross term because cross_fraction must be in (0, 1] (got {self.cross_fraction})"
            )

    @property
    def evaluates_once(self) -> bool:
        """True if each turn of alternating play evaluates its losses once."""
        return not (self.second_order or self.repeats_batch or self.zero_sum)

    def renamed(self, old: Mapping[str, Any], rule: str) -> RuleNeeds:
        """Take over class attributes of a rule that was written before `needs`, with a warning.

        Args:
            old: attribute -> value, by the names of before.
            rule: its name, for the warning.
        """
        for name in old:
            warn_renamed(f"{rule}.{name}", f"needs = RuleNeeds({_RENAMED[name]}=...)")
        return replace(self, **{_RENAMED[name]: value for name, value in old.items()})


_RENAMED = {
    "plain_steps": "requires_sgd",
    "settles": "adjusts_weights",
    "zero_sum": "zero_sum",
    "second_order": "second_order",
    "first_order": "fallback",
    "revisits": "repeats_batch",
    "subtracts": "cancels",
    "couples": "uses_opponent",
    "displaces": "displaces",
    "reads_momentum": "reads_momentum",
}


class AbstractGameRule(abc.ABC):
    """A game optimizer. Subclasses are final, and can be built without arguments.

    Example:
        >>> class Halved(AbstractGameRule):
        ...     cost = Cost(gradients=2)
        ...     def init(self, point):
        ...         return {}
        ...     def direction(self, oracle, players, state):
        ...         return {p: tuple(g / 2 for g in oracle.gradient(p)) for p in players}, state
        >>> Halved().name
        'Halved'
        >>> Halved()
        Halved()
    """

    cost: Cost | None = None
    """Of one game step; None where it depends on the data, as in an iterative solve."""

    plays: tuple[Play, ...] = ("alternating", "simultaneous")
    """The orders of play that the rule is defined for; the first one is its default."""

    affine: bool = False
    """Whether a game step is an affine map where the players' gradients are, moved by SGD."""

    period: int = 1
    """Game steps after which the rule does the same again."""

    needs: RuleNeeds = RuleNeeds()
    """The demands of the rule on the game step that plays it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: value for name, value in vars(cls).items() if name in _RENAMED}
        if own:
            cls.needs = cls.needs.renamed(own, cls.__name__)
        if "settle" in vars(cls):
            warn_renamed(f"{cls.__name__}.settle", "adjust_weights")
            cls.adjust_weights = vars(cls)["settle"]  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RENAMED:
            object.__setattr__(self, "needs", self.needs.renamed({name: value}, type(self).__name__))
        object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The rule's name in checkpoints and tables."""
        return type(self).__name__

    def __repr__(self) -> str:
        """The name with its settings: those arguments that are kept under their own names."""
        settings = {k: vars(self)[k] for k in inspect.signature(type(self)).parameters if k in vars(self)}
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """Instances that the contract tests look at: with its defaults, and whatever else makes another algorithm."""
        return [cls()]

    def differentiating_once(self) -> AbstractGameRule | None:
        """The rule to go on with where a layer has no second derivative, or None for refusing the layer."""
        return None

    @abc.abstractmethod
    def init(self, point: Point) -> RuleState:
        """The state before the first step.

        Args:
            point: the players' parameters at the start; must be copied if it is kept.

        Returns:
            The state; empty for a rule without memory.
        """

    @abc.abstractmethod
    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """The directions that the optimizer descends.

        Args:
            oracle: derivatives on this batch, detached and averaged over ranks.
            players: who moves now: one name in alternating play, both in simultaneous play.
            state: as `init` or the last call returned it; not changed in place.

        Returns:
            One vector per moving player, and the next state. They share no memory: clips and optimizers work on
            directions in place (`calculus.players.snapshot`).
        """

    def adjust_weights(
        self, before: Point, after: Point, players: Sequence[str], state: RuleState
    ) -> tuple[Point, RuleState]:
        """Move the players once more, after the optimizer has; called only with `needs.adjusts_weights`.

        Args:
            before: both players before the optimizer's step.
            after: both players after it; whoever does not move is the same in both.
            players: who moved. The game step ends with the last name in the order of play.
            state: as `direction` returned it.

        Returns:
            The parameters of the players to move, and the next state.
        """
        return {}, state

    def forget(self, state: RuleState, player: str, point: Point) -> RuleState:
        """Drop what belongs to one player, which was set anew in place.

        By default what the state holds under the player's name is as `init` has it, or gone, and the rest is kept. A
        rule that remembers something of both players together overrides this.

        Args:
            state: as `direction` returned it.
            player: that was set anew.
            point: the players' parameters, as they are now.
        """
        kept: RuleState = _forgetting(state, self.init(point), player)
        return kept


def _forgetting(kept: Any, fresh: Any, player: str) -> Any:
    if isinstance(kept, (tuple, list)):
        paired = fresh if isinstance(fresh, (tuple, list)) and len(fresh) == len(kept) else [None] * len(kept)
        return type(kept)(_forgetting(value, new, player) for value, new in zip(kept, paired, strict=True))
    if not isinstance(kept, dict):
        return kept
    fresh = fresh if isinstance(fresh, dict) else {}
    others = {name: _forgetting(value, fresh.get(name), player) for name, value in kept.items() if name != player}
    return others | ({player: fresh[player]} if player in kept and player in fresh else {})

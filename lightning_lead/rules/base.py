"""What a game optimizer is: a pure function from an oracle and a state to a direction and a state.

    direction(oracle, players, state) -> ({player: d}, state)

An ordinary `torch.optim` optimizer then moves the weights along d. A rule may also have the last word on where they end
up, `settle`. To add one: a file here with the paper, the equations, the state and the class, and an export line in
`rules/__init__.py`; `docs/your_own_rule.md` shows how.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_lead._errors import ConfigurationError
from lightning_lead._typing import CrossForm, Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle

__all__ = ["AbstractGameRule", "Cost", "RuleState", "require_number"]

RuleState = dict[str, Any]
"""Plain nested dicts, tuples, bools, numbers and detached tensors: loads with `weights_only=True`."""


class Cost(NamedTuple):
    """What a rule asks of the oracle in one game step of one update per player, once it is under way.

    Example:
        >>> Cost(gradients=2, hessian_products=2)
        Cost(gradients=2, hessian_products=2)
    """

    gradients: int
    hessian_products: int = 0


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

    plain_steps: bool = False
    """Whether θ ← θ − η d is the whole method, so that an optimizer with a memory of its own would be a second one."""

    settles: bool = False
    """Whether `settle` has something to say."""

    affine: bool = False
    """Whether a game step is an affine map where the players' gradients are, moved by SGD."""

    period: int = 1
    """Game steps after which the rule does the same again."""

    zero_sum: bool = False
    """Whether the rule is defined for zero-sum games alone; fit start then looks whether the losses are opposites."""

    second_order: bool = False
    """Whether the rule differentiates a gradient; decides whether fit start probes for layers that forbid it."""

    first_order: str = "a rule that differentiates once, such as game='ExtraAdam'"
    """What to use where a layer has no second derivative, for the error that says so, if `second_order`."""

    form: CrossForm = "opponent"
    """Of the cross terms that it asks for, if it does; fit start probes with this one."""

    cross_fraction: float = 1.0
    """The share of a batch that they are estimated on; fit start probes with it."""

    revisits: bool = False
    """Whether a direction looks at the same batch more than once; what a forward moves is kept for the repeat."""

    subtracts: bool = False
    """Whether a direction is a difference of gradients of one batch, which must be taken in full precision."""

    couples: bool = False
    """Whether a direction depends on how the opponent moves; fit start then checks that the players meet."""

    displaces: bool = False
    """True if a turn's only look is at a displaced opponent: one gradient as in plain play, and nothing is repeated."""

    reads_momentum: bool = False
    """True if a direction depends on the optimizers' momentum; fit start then checks that it can be read."""

    @property
    def name(self) -> str:
        """What checkpoints and tables call the rule."""
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

    def settle(self, before: Point, after: Point, players: Sequence[str], state: RuleState) -> tuple[Point, RuleState]:
        """Where the players stand at last, after the optimizer has moved them; by default, there.

        Asked only if `settles`.

        Args:
            before: both players before the optimizer's step.
            after: both players after it; whoever does not move is the same in both.
            players: who moved. The game step ends with the last name in the order of play.
            state: as `direction` returned it.

        Returns:
            The parameters of whoever is to stand elsewhere, and the next state.
        """
        return {}, state


def require_number(name: str, value: Any, *, low: float, high: float, why: str, closed: bool = True) -> float:
    """A hyperparameter as a float, if it is a number in its range.

    Args:
        name: of the argument.
        value: as it was passed.
        low: smallest value.
        high: largest value.
        why: what the range is good for; follows "because".
        closed: whether the ends belong to the range; infinity never does.

    Raises:
        ConfigurationError: no number, or out of range.

    Example:
        >>> require_number("beta", 0.5, low=-1, high=1, why="momentum must decay", closed=False)
        0.5
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    inside = number and (low <= value <= high if closed else low < value < high)
    if not inside or value in (float("inf"), float("-inf")):
        left, right = "[]" if closed else "()"
        left, right = left if low > float("-inf") else "(", right if high < float("inf") else ")"
        raise ConfigurationError(
            f"Cannot use {name} because {why}; pass a number in {left}{low}, {high}{right} (got {value!r})"
        )
    return float(value)

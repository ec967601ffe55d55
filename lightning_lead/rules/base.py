"""What a game optimizer is: a pure function from an oracle and a state to a direction and a state.

    direction(oracle, players, state) -> ({player: d}, state)

An ordinary `torch.optim` optimizer then moves the weights along d. To add one: a file here with the paper, the
equations, the state and the class, and an export line in `rules/__init__.py`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from lightning_lead._typing import Point, Vector
from lightning_lead.calculus.oracle import GameOracle

__all__ = ["AbstractGameRule", "RuleState"]

RuleState = dict[str, Any]
"""Plain nested dicts, tuples, bools and detached tensors: loads with `weights_only=True`."""


class AbstractGameRule(abc.ABC):
    """A game optimizer. Subclasses are final.

    Example:
        >>> class Halved(AbstractGameRule):
        ...     def init(self, point):
        ...         return {}
        ...     def direction(self, oracle, players, state):
        ...         return {p: tuple(g / 2 for g in oracle.gradient(p)) for p in players}, state
        >>> Halved().name
        'Halved'
    """

    @property
    def name(self) -> str:
        """What checkpoints and tables call the rule."""
        return type(self).__name__

    @property
    def second_order(self) -> bool:
        """Whether the rule differentiates a gradient; decides whether fit start probes for layers that forbid it."""
        return False

    @property
    def revisits(self) -> bool:
        """Whether a direction looks at the same batch more than once; what a forward moves is kept for the repeat."""
        return False

    @property
    def couples(self) -> bool:
        """Whether a direction depends on how the opponent moves; fit start then checks that the players meet."""
        return False

    @property
    def starts_here(self) -> bool:
        """Whether a turn's first derivative is the moving player's, at the current point.

        And plain where the opponent has not moved since the player's last update. Then a turn may begin with its fakes
        while the directions of the turn before cross ranks.
        """
        return False

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
            One vector per moving player, and the next state.
        """

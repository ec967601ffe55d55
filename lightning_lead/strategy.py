"""GameStrategy: a rule, the order of play, and the state that survives a step.

In Lightning the bare word "strategy" means distributed execution; this one is passed as `game=`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead._typing import Play, Point
from lightning_lead.calculus.oracle import GameOracle, OracleStatistics
from lightning_lead.rules.base import AbstractGameRule, RuleState
from lightning_lead.rules.lead import LEAD

__all__ = ["GameStrategy", "LEADStrategy", "OptimizerSettings"]


class OptimizerSettings(NamedTuple):
    """What `torch.optim.SGD` must be given for a strategy to be the paper's Algorithm 1."""

    lr: float
    momentum: float


class GameStrategy:
    """Holds a rule and its state, and turns an oracle's derivatives into gradients for the optimizer.

    Args:
        rule: the game optimizer.
        play: "alternating" (each player answers the other's new position) or "simultaneous".

    Raises:
        ConfigurationError: `rule` is no `AbstractGameRule`, or `play` is unknown.

    Example:
        >>> from lightning_lead.rules import GradientPlay
        >>> GameStrategy(GradientPlay())
        GameStrategy(GradientPlay, play='alternating')
    """

    def __init__(self, rule: AbstractGameRule, *, play: Literal["alternating", "simultaneous"] = "alternating") -> None:
        if not isinstance(rule, AbstractGameRule):
            raise ConfigurationError(
                f"Cannot play by {rule!r} because it is no game rule; pass an instance such as LEAD(alpha=1.0) "
                f"(got {type(rule).__name__})"
            )
        if play not in ("alternating", "simultaneous"):
            raise ConfigurationError(f"Cannot use play={play!r}; choose 'alternating' or 'simultaneous'")
        self.rule = rule
        self.play: Play = play
        self._state: RuleState | None = None
        self._restored = False

    def __repr__(self) -> str:
        return f"GameStrategy({self.rule.name}, play={self.play!r})"

    def start(self, point: Point) -> None:
        """Begin anew, or go on from a state that was just loaded, on the parameters' device.

        Args:
            point: the players' parameters.
        """
        if self._restored and self._state:
            self._state = _to_device(self._state, next(iter(point.values()))[0].device)
        else:
            self._state = self.rule.init(point)
        self._restored = False

    def play_turn(
        self, oracle: GameOracle, players: Sequence[str], parameters: Mapping[str, Sequence[Tensor]]
    ) -> dict[str, OracleStatistics]:
        """One update of one player, or of both: the directions end up in `.grad`.

        Args:
            oracle: derivatives on this turn's batch.
            players: who moves.
            parameters: name -> the live parameters.

        Returns:
            What each moving player's update looked like, for logging.
        """
        if self._state is None:
            raise ConfigurationError(
                "Cannot play because the game has not started; a module that overrides on_fit_start() must call "
                "super().on_fit_start() (outside of a Trainer: call start() with the players' parameters)"
            )
        directions, self._state = self.rule.direction(oracle, players, self._state)
        for player in players:
            for parameter, part in zip(parameters[player], directions[player], strict=True):
                parameter.grad = part.to(parameter.dtype)
        return {player: oracle.statistics[player] for player in players}

    def state_dict(self) -> dict[str, Any]:
        """Rule, play and state as plain tensors and containers; loads with `weights_only=True`."""
        return {"rule": self.rule.name, "play": self.play, "state": self._state or {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state.

        Args:
            state: what `state_dict` returned.

        Raises:
            CheckpointMismatchError: it was written by another rule or another play.
        """
        for what, mine in (("rule", self.rule.name), ("play", self.play)):
            if state[what] != mine:
                raise CheckpointMismatchError(
                    f"Cannot resume because the checkpoint was written with {what} {state[what]!r}; "
                    f"use the same {what}, or start a new run from its weights (got {what} {mine!r})"
                )
        self._state, self._restored = dict(state["state"]) or None, True


class LEADStrategy(GameStrategy):
    """LEAD as a strategy: `GameStrategy(LEAD(...))` with its settings in one place.

    Args:
        alpha: the coupling a in gradient units (a = α/η of the paper), finite, ≥ 0; 0 is plain gradient play at its
            price.
        cross: "exact" or "difference"; see `rules.LEAD`.
        form: "opponent" or "own", of the exact term.
        play: "alternating" or "simultaneous".
        cross_fraction: share of each batch that the cross term is estimated on, in (0, 1]; see `rules.LEAD`.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> strategy, settings = LEADStrategy.from_paper(eta=0.1, beta=0.5, alpha=0.05)
        >>> strategy.rule.alpha, settings
        (0.5, OptimizerSettings(lr=0.1, momentum=0.5))
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        cross: Literal["exact", "difference"] = "exact",
        form: Literal["opponent", "own"] = "opponent",
        play: Literal["alternating", "simultaneous"] = "alternating",
        cross_fraction: float = 1.0,
    ) -> None:
        super().__init__(LEAD(alpha, cross=cross, form=form, cross_fraction=cross_fraction), play=play)

    @classmethod
    def from_paper(
        cls, *, eta: float, beta: float, alpha: float, **settings: Any
    ) -> tuple[LEADStrategy, OptimizerSettings]:
        """The paper's units, x⁺ = x + β(x − x⁻) − η g − α(…): a = α/η, with SGD(lr=η, momentum=β).

        Args:
            eta: step size η > 0.
            beta: momentum β in [0, 1).
            alpha: coupling α ≥ 0 in update units.
            **settings: `cross`, `form`, `play`, `cross_fraction` of the strategy.

        Returns:
            The strategy and the matching SGD settings.

        Raises:
            ConfigurationError: a number out of its range.
        """
        if not (math.isfinite(eta) and eta > 0):
            raise ConfigurationError(f"Cannot use eta because a step size must be finite and > 0 (got {eta!r})")
        if not (math.isfinite(beta) and 0 <= beta < 1):
            raise ConfigurationError(f"Cannot use beta because momentum must be in [0, 1) (got {beta!r})")
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigurationError(f"Cannot use alpha because a coupling must be finite and ≥ 0 (got {alpha!r})")
        return cls(alpha / eta, **settings), OptimizerSettings(lr=eta, momentum=beta)

    @classmethod
    def from_physics(
        cls, *, charge: float, friction: float, time_step: float, **settings: Any
    ) -> tuple[LEADStrategy, OptimizerSettings]:
        """The particle's units, mass 1: η = δ², β = 1 − μδ, α = 2qδ.

        Args:
            charge: q ≥ 0.
            friction: μ in (0, 1/δ].
            time_step: δ > 0.
            **settings: `cross`, `form`, `play`, `cross_fraction` of the strategy.

        Returns:
            The strategy and the matching SGD settings.

        Raises:
            ConfigurationError: a number out of its range.

        Example:
            >>> strategy, settings = LEADStrategy.from_physics(charge=0.25, friction=1.0, time_step=0.5)
            >>> strategy.rule.alpha, settings.lr, settings.momentum
            (1.0, 0.25, 0.5)
        """
        if not (math.isfinite(time_step) and time_step > 0):
            raise ConfigurationError(f"Cannot use time_step because it must be finite and > 0 (got {time_step!r})")
        eta, beta, alpha = time_step**2, 1 - friction * time_step, 2 * charge * time_step
        return cls.from_paper(eta=eta, beta=beta, alpha=alpha, **settings)


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_to_device(item, device) for item in value)
    return value

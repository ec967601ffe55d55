"""GameStrategy: a rule, the order of play, and the state that survives a step.

In Lightning the bare word "strategy" means distributed execution; this one is passed as `game=`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError, DivergenceError
from lightning_lead._typing import Play, Point, Vector
from lightning_lead.analysis.lead_law import alternating_lead_law
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.players import laid_out_like, norm
from lightning_lead.calculus.terms import OracleStatistics
from lightning_lead.rules.base import AbstractGameRule, RuleState
from lightning_lead.rules.coupling import renamed_alpha
from lightning_lead.rules.lead import LEAD

__all__ = ["GameStrategy", "LEADStrategy", "OptimizerSettings", "PlayedTurn"]

_NOT_IN = {
    "alternating": "both players' moves together, from one point",
    "simultaneous": "each player's move from the other one's new position",
}


class OptimizerSettings(NamedTuple):
    """What `torch.optim.SGD` must be given for a strategy to be the paper's Algorithm 1."""

    lr: float
    momentum: float


class PlayedTurn(NamedTuple):
    """What came of a turn.

    Example:
        >>> PlayedTurn({}, {}, skipped=True, evaluations={}).skipped
        True
    """

    statistics: dict[str, OracleStatistics]  # of each moving player's update, for logging
    notes: dict[str, float]  # of the rule, for logging
    skipped: bool  # a direction was not finite; nobody moves
    evaluations: dict[str, int]  # how many of each kind the rule asked its oracle for


class GameStrategy:
    """Holds a rule and its state, and turns an oracle's derivatives into gradients for the optimizer.

    A turn whose direction is not finite is skipped: nobody moves, neither the rule's nor the optimizer's memory sees
    it, and it is counted. Directions are averaged over ranks, so all ranks skip the same turns.

    Args:
        rule: the game optimizer.
        play: "alternating" (each player answers the other's new position) or "simultaneous"; default the rule's own.
        skip_limit: turns in a row of one player that may be skipped before training ends with a `DivergenceError`, ≥ 0,
            whatever the other player does meanwhile; or None for not looking, which saves a synchronisation with the
            device per turn.

    Raises:
        ConfigurationError: `rule` is no `AbstractGameRule`, `play` is unknown or the rule is not defined for it, or a
            limit out of its range.

    Example:
        >>> from lightning_lead.rules import GradientPlay
        >>> GameStrategy(GradientPlay())
        GameStrategy(GradientPlay, play='alternating')
    """

    def __init__(
        self,
        rule: AbstractGameRule,
        *,
        play: Literal["alternating", "simultaneous"] | None = None,
        skip_limit: int | None = 10,
    ) -> None:
        if not isinstance(rule, AbstractGameRule):
            raise ConfigurationError(
                f"Cannot play by {rule!r} because it is no game rule; pass an instance such as LEAD(1.0) "
                f"(got {type(rule).__name__})"
            )
        if play not in (None, "alternating", "simultaneous"):
            raise ConfigurationError(f"Cannot use play={play!r}; choose 'alternating' or 'simultaneous'")
        if play is not None and play not in rule.plays:
            raise ConfigurationError(
                f"Cannot play {rule.name} in {play} play because it works out {_NOT_IN[play]}; "
                f"use play={rule.plays[0]!r} (got play={play!r})"
            )
        if skip_limit is not None and (
            not isinstance(skip_limit, int) or isinstance(skip_limit, bool) or skip_limit < 0
        ):
            raise ConfigurationError(f"Cannot use skip_limit={skip_limit!r}; pass an integer ≥ 0, or None")
        self.rule = rule
        self.play: Play = play if play is not None else rule.plays[0]
        self.skip_limit = skip_limit
        self.skipped = 0
        """Turns that were skipped, in all."""
        self._in_a_row: dict[str, int] = {}  # player -> its last turns, if they were skipped
        self._state: RuleState | None = None
        self._restored = False

    def __repr__(self) -> str:
        return f"GameStrategy({self.rule.name}, play={self.play!r})"

    @property
    def description(self) -> str:
        """The rule with its settings, and the order of play: what checkpoints and records of scores say."""
        return f"{self.rule!r}, {self.play} play"

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
    ) -> PlayedTurn:
        """One update of one player, or of both: the directions end up in `.grad`, which is None where nobody moves.

        Args:
            oracle: derivatives on this turn's batch.
            players: who moves.
            parameters: name -> the live parameters.

        Raises:
            DivergenceError: more turns in a row of one player than the limit were skipped.
        """
        if self._state is None:
            raise ConfigurationError(
                "Cannot play because the game has not started; a module that overrides on_fit_start() must call "
                "super().on_fit_start() (outside of a Trainer: call start() with the players' parameters)"
            )
        directions, state = self.rule.direction(oracle, players, self._state)
        statistics = {player: oracle.statistics[player] for player in players if player in oracle.statistics}
        if skipped := self.skip_limit is not None and not _finite(directions):
            self.skipped += 1
            self._in_a_row |= {player: self._in_a_row.get(player, 0) + 1 for player in players}
            if (count := max(self._in_a_row[player] for player in players)) > (self.skip_limit or 0):
                who = " and ".join(map(repr, players))
                norms = ", ".join(f"{player} {float(norm(d)):.3g}" for player, d in directions.items())
                raise DivergenceError(
                    f"Cannot go on because directions of {self.rule.name} were not finite in {count} turns of {who} in "
                    "a row; lower the learning rate, clip, or look for what the losses divide by; the weights of "
                    f"{who} are still those before the first of them (got norms: {norms})"
                )
        else:
            self._state = state
            self._in_a_row |= dict.fromkeys(players, 0)
        for player in players:
            for parameter, part in zip(parameters[player], directions[player], strict=True):
                parameter.grad = None if skipped else laid_out_like(part, parameter)
        return PlayedTurn(statistics, oracle.notes, skipped, dict(oracle.evaluations))

    def settle(self, before: Point, parameters: Mapping[str, Sequence[Tensor]], players: Sequence[str]) -> None:
        """The rule's last word on a turn that was not skipped, after the optimizer has moved the players.

        Args:
            before: both players before the optimizer's step.
            parameters: name -> the live parameters; those that are to stand elsewhere are written to.
            players: who moved.
        """
        after = {name: tuple(p.detach() for p in params) for name, params in parameters.items()}
        point, self._state = self.rule.settle(before, after, players, self._state or {})
        for name, vector in point.items():
            for parameter, value in zip(after[name], vector, strict=True):
                parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Rule, play and state as plain tensors and containers; loads with `weights_only=True`."""
        counts = {"skipped": self.skipped, "skipped_in_a_row": dict(self._in_a_row)}
        return {"rule": self.rule.name, "play": self.play, "state": self._state or {}, **counts}

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
        self.skipped, in_a_row = state.get("skipped", 0), state.get("skipped_in_a_row")
        # once it was one number for both players, which does not tell whose turns they were: counted anew
        self._in_a_row = dict(in_a_row) if isinstance(in_a_row, Mapping) else {}


class LEADStrategy(GameStrategy):
    """LEAD as a strategy: `GameStrategy(LEAD(...))` with its settings in one place.

    Args:
        coupling: a in gradient units (a = α/η of the paper), finite, ≥ 0; 0 is plain gradient play at its price. "auto"
            sets it by the moving player's momentum; one number is for both; or player -> its own, as in
            {"discriminator": 0.5, "generator": 0.01}.
        cross: "exact", "difference", "extrapolated", or "auto", which checks itself; see `rules.LEAD`.
        form: "opponent" (default) or "own", of the exact term.
        play: "alternating" or "simultaneous".
        cross_fraction: share of each batch that the cross term is estimated on, in (0, 1]; see `rules.LEAD`.
        check_every: for `cross="auto"`; see `rules.LEAD`.
        least_agreement: the same.
        fallback: the same.
        skip_limit: see `GameStrategy`.
        alpha: deprecated name of `coupling`.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> strategy, settings = LEADStrategy.from_paper(eta=0.1, beta=0.5, alpha=0.05)
        >>> strategy.rule.coupling, settings
        (0.5, OptimizerSettings(lr=0.1, momentum=0.5))
    """

    def __init__(
        self,
        coupling: float | dict[str, float] | Literal["auto"] = "auto",
        *,
        cross: Literal["exact", "difference", "extrapolated", "auto"] = "exact",
        form: Literal["opponent", "own"] | None = None,
        play: Literal["alternating", "simultaneous"] = "alternating",
        cross_fraction: float = 1.0,
        check_every: int = 25,
        least_agreement: float = 0.5,
        fallback: Literal["exact", "difference"] = "exact",
        skip_limit: int | None = 10,
        alpha: float | dict[str, float] | None = None,
    ) -> None:
        rule = LEAD(
            coupling if alpha is None else renamed_alpha(alpha, coupling),
            cross=cross,
            form=form,
            cross_fraction=cross_fraction,
            check_every=check_every,
            least_agreement=least_agreement,
            fallback=fallback,
        )
        super().__init__(rule, play=play, skip_limit=skip_limit)

    @classmethod
    def from_paper(
        cls, *, eta: float, beta: float, alpha: float, **settings: Any
    ) -> tuple[LEADStrategy, OptimizerSettings]:
        """The paper's units, x⁺ = x + β(x − x⁻) − η g − α(…): a = α/η, with SGD(lr=η, momentum=β).

        Args:
            eta: step size η > 0.
            beta: momentum β in [0, 1).
            alpha: coupling α ≥ 0 in update units.
            **settings: any other setting of the strategy.

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
            **settings: any other setting of the strategy.

        Returns:
            The strategy and the matching SGD settings.

        Raises:
            ConfigurationError: a number out of its range.

        Example:
            >>> strategy, settings = LEADStrategy.from_physics(charge=0.25, friction=1.0, time_step=0.5)
            >>> strategy.rule.coupling, settings.lr, settings.momentum
            (1.0, 0.25, 0.5)
        """
        if not (math.isfinite(time_step) and time_step > 0):
            raise ConfigurationError(f"Cannot use time_step because it must be finite and > 0 (got {time_step!r})")
        eta, beta, alpha = time_step**2, 1 - friction * time_step, 2 * charge * time_step
        return cls.from_paper(eta=eta, beta=beta, alpha=alpha, **settings)

    @classmethod
    def for_spectrum(
        cls, *, smallest: float, largest: float, curvature: float = 0.0, **settings: Any
    ) -> tuple[LEADStrategy, OptimizerSettings]:
        """Alternating play with strong coupling and momentum, set by a law for a quadratic game of this spectrum.

        The law, its derivation and its rate are in `analysis.lead_law`. On the bilinear game it needs about κ game
        steps per factor e, κ = largest/smallest.

        Args:
            smallest: smallest singular value of the coupling, ≥ 0, > 0 without curvature.
            largest: the largest one.
            curvature: h ≥ 0, of both players' own losses.
            **settings: any other setting of the strategy but `play`, which is alternating; every form has this rate.

        Returns:
            The strategy and the matching SGD settings.

        Raises:
            ConfigurationError: a number out of its range.

        Example:
            >>> strategy, settings = LEADStrategy.for_spectrum(smallest=0.2, largest=1.0)
            >>> f"a = {strategy.rule.coupling:.2f}, lr = {settings.lr:.3f}, momentum = {settings.momentum:.3f}"
            'a = 4.47, lr = 0.334, momentum = 0.668'
        """
        law = alternating_lead_law(smallest, largest, curvature)
        return cls(law.coupling, play="alternating", **settings), OptimizerSettings(lr=law.eta, momentum=law.beta)


def _finite(directions: Mapping[str, Vector]) -> bool:
    # by the largest entry: squares would overflow where the direction does not
    filled = [part for d in directions.values() for part in d if part.numel()]
    largest = torch._foreach_norm(filled, math.inf)
    return math.isfinite(float(torch.stack([size.float() for size in largest]).max()))  # that of a NaN is NaN


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_to_device(item, device) for item in value)
    return value

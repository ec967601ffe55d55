"""GameStrategy: a rule, the order of play, and the state that survives a step.

In Lightning the bare word "strategy" means distributed execution; this one is passed as `game=`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import CheckpointMismatchError, ConfigurationError, DivergenceError
from lightning_lead._sharding import everywhere, is_sharded, local_part
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus._players import laid_out_like, norm
from lightning_lead.calculus._terms import OracleStatistics
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.engine._rule_memory import check_memory, lend, placed, settled, take_back
from lightning_lead.rules.base import AbstractGameRule, RuleState

if TYPE_CHECKING:
    from lightning_lead.engine._loss_scale import LossScale

__all__ = ["GameStrategy", "PlayedTurn"]

_NOT_IN = {
    "alternating": "both players' moves together, from one point",
    "simultaneous": "each player's move from the other one's new position",
}


class PlayedTurn(NamedTuple):
    """The outcome of a turn.

    Example:
        >>> PlayedTurn({}, {}, {}, skipped=True).skipped
        True
    """

    statistics: dict[str, OracleStatistics]  # of each moving player's update, for logging
    notes: dict[str, float]  # of the rule, for logging
    evaluations: dict[str, int]  # "gradients" and "hessian_products" that the rule asked for
    skipped: bool  # a direction was not finite; nobody moves


class GameStrategy:
    """Holds a rule and its state, and turns an oracle's derivatives into gradients for the optimizer.

    A turn whose direction is not finite is skipped: nobody moves, neither the rule's nor the optimizer's memory sees
    it, and it is counted. The other turns of the game step are played, and buffers that its forward has moved stay
    moved. Directions are averaged over ranks, so all ranks skip the same turns.

    Args:
        rule: the game optimizer.
        play: "alternating" (each player answers the other's new position) or "simultaneous"; default the rule's own.
        skip_limit: turns in a row of one player that may be skipped before training ends with a `DivergenceError`, ≥ 0,
            whatever the other player does meanwhile; or None for not looking, which saves a synchronisation with the
            device per turn. In fp16 turns at a loss scale above 1 do not count, and it is always looked.
        offload: keep what the rule remembers (previous positions, gradients, slow weights) in host memory, pinned for a
            CUDA device, and bring a piece of it to the device when a turn looks it up, until the turn ends. No number
            changes, and checkpoints are the same. A rule that remembers nothing has nothing to bring, and players on
            the CPU have their memory there anyway. Set it before `start`.

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
        offload: bool = False,
    ) -> None:
        check_arguments(GameStrategy, locals())
        if play is not None and play not in rule.plays:
            raise ConfigurationError(
                f"Cannot play {rule.name} in {play} play because it works out {_NOT_IN[play]}; "
                f"use play={rule.plays[0]!r} (got play={play!r})"
            )
        if skip_limit is not None and skip_limit < 0:
            raise ConfigurationError(f"Cannot use skip_limit={skip_limit}; pass an integer ≥ 0, or None")
        self.rule = rule
        self.play: Play = play if play is not None else rule.plays[0]
        self.skip_limit = skip_limit
        self.skipped = 0
        """Turns that were skipped, in all."""
        self._in_a_row: dict[str, int] = {}  # player -> its last turns, if they were skipped
        self.offload = bool(offload)
        self._memory: RuleState | None = None  # the rule's state, of which tensors may lie on the host
        self.loss_scale: LossScale | None = None
        """The factors by which losses come multiplied in fp16; None in other precisions."""
        self._restored = False

    def __repr__(self) -> str:
        return f"GameStrategy({self.rule.name}, play={self.play!r}{', offload=True' if self.offload else ''})"

    @property
    def state(self) -> RuleState | None:
        """The rule's state; None before `start`. With `offload` its tensors are on the host."""
        return settled(self._memory) if self.offload and self._memory is not None else self._memory

    @state.setter
    def state(self, state: RuleState) -> None:
        self._memory = take_back(state) if self.offload else state

    @property
    def description(self) -> str:
        """The rule with its settings, and the order of play, as checkpoints and records of scores name them."""
        return f"{self.rule!r}, {self.play} play"

    def start(self, point: Point) -> None:
        """Start with the rule's initial state, or with one that was just loaded, on the parameters' device.

        Args:
            point: the players' parameters.
        """
        if self._restored and self._memory:
            check_memory(self._memory, point)
            self.state = placed(self._memory, point)
        else:
            self.state = self.rule.init(point)
            self._in_a_row.clear()
        self._restored = False

    def forget(self, player: str, point: Point) -> None:
        """Drop what the rule remembers of one player, which was set anew in place; of the other one it is kept.

        Args:
            player: its name.
            point: the players' parameters, as they are now.
        """
        if self._memory:
            lent = self._lent()
            self._take_back(self.rule.forget(lent, player, point), lent)

    def play_turn(
        self, oracle: GameOracle, players: Sequence[str], parameters: Mapping[str, Sequence[Tensor]]
    ) -> PlayedTurn:
        """Write the directions of one update into `.grad`; a skipped turn leaves None there.

        Args:
            oracle: derivatives on this turn's batch.
            players: those that move.
            parameters: name -> the live parameters.

        Raises:
            DivergenceError: more turns in a row of one player than the limit were skipped.
        """
        if self._memory is None:
            raise ConfigurationError(
                "Cannot play because the game has not started; a module that overrides on_fit_start() must call "
                "super().on_fit_start() (outside of a Trainer: call start() with the players' parameters)"
            )
        lent = self._lent()
        directions, state = self.rule.direction(oracle, players, lent)
        statistics = {player: oracle.statistics[player] for player in players if player in oracle.statistics}
        scale = self.loss_scale
        looks = self.skip_limit is not None or scale is not None
        skipped = looks and not _finite(directions, oracle.sizes)
        lifted = scale is not None and scale.of(players) > 1.0  # what is too large may be so by the scale alone
        if scale is not None:
            scale.update(players, overflowed=skipped)
            oracle.notes |= {f"loss_scale/{player}": scale.of(players) for player in players}
        if skipped:
            self.skipped += 1
            if not lifted:
                self._in_a_row |= {player: self._in_a_row.get(player, 0) + 1 for player in players}
            count = max(self._in_a_row.get(player, 0) for player in players)
            if self.skip_limit is not None and count > self.skip_limit and not lifted:
                who = " and ".join(map(repr, players))
                norms = ", ".join(f"{player} {float(norm(d)):.3g}" for player, d in directions.items())
                raise DivergenceError(
                    f"Cannot go on because directions of {self.rule.name} were not finite in {count} turns of {who} in "
                    f"a row{'' if scale is None else ', at loss scales of 1 and less'}; lower the learning rate, clip, "
                    "or look for what the losses divide by; the weights of "
                    f"{who} are still those before the first of them (got norms: {norms})"
                )
        else:
            self._take_back(state, lent)
            self._in_a_row |= dict.fromkeys(players, 0)
        for player in players:
            for parameter, tensor in zip(parameters[player], directions[player], strict=True):
                parameter.grad = None
                if not skipped:
                    _give(parameter, laid_out_like(tensor, parameter))
        return PlayedTurn(statistics, oracle.notes, dict(oracle.evaluations), skipped)

    def adjust_weights(self, before: Point, parameters: Mapping[str, Sequence[Tensor]], players: Sequence[str]) -> None:
        """Let the rule move the players once more, after the optimizer, in a turn that was not skipped.

        Args:
            before: both players before the optimizer's step.
            parameters: name -> the live parameters; those that the rule moves are written to.
            players: those that moved.
        """
        after = {name: tuple(p.detach() for p in params) for name, params in parameters.items()}
        lent = self._lent()
        point, state = self.rule.adjust_weights(before, after, players, lent)
        self._take_back(state, lent)
        for name, vector in point.items():
            for parameter, value in zip(after[name], vector, strict=True):
                parameter.copy_(value)

    def _lent(self) -> RuleState:
        return lend(self._memory or {}) if self.offload else self._memory or {}

    def _take_back(self, state: RuleState, lent: RuleState) -> None:
        self._memory = take_back(state, lent) if self.offload else state

    def state_dict(self, *, wait: bool = True) -> dict[str, Any]:
        """Return rule, play and state as plain tensors and containers; loads with `weights_only=True`.

        Args:
            wait: for copies to the host that are under way; if not, what is returned is to go through
                `_rule_memory.settled` before it is read.
        """
        counts: dict[str, Any] = {"skipped": self.skipped, "skipped_in_a_row": dict(self._in_a_row)}
        if self.loss_scale is not None:
            counts["loss_scale"] = self.loss_scale.state_dict()
        state = (self.state if wait else self._memory) or {}
        return {"rule": self.rule.name, "play": self.play, "state": state, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state.

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
        if not isinstance(state["state"], Mapping):
            raise CheckpointMismatchError(
                f"Cannot resume because the checkpoint has no memory of {self.rule.name}; take one that a fit has "
                f"saved (got {state['state']!r})"
            )
        self._memory, self._restored = dict(state["state"]) or None, True
        if self.loss_scale is not None:  # that of a run in another precision begins anew
            self.loss_scale.load_state_dict(state.get("loss_scale", {}))
        self.skipped, in_a_row = state.get("skipped", 0), state.get("skipped_in_a_row")
        # once it was one number for both players, which does not tell whose turns they were: counted anew
        self._in_a_row = dict(in_a_row) if isinstance(in_a_row, Mapping) else {}


def _give(parameter: Tensor, direction: Tensor) -> None:
    """Write a direction into `.grad`; where the parameter has gradient hooks, as a reverse pass would, through them."""
    if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
        torch.autograd.backward(parameter, direction)
    else:
        parameter.grad = direction


def _finite(directions: Mapping[str, Vector], sizes: Sequence[Tensor] = ()) -> bool:
    """Return True if directions are finite, and sizes of what they were made of; reads one number if so."""
    every = [tensor for d in directions.values() for tensor in d]
    filled = [part for part in map(local_part, every) if part.numel()]
    if any(map(is_sharded, every)):  # a rank may have no part of any
        sizes = [size.float() for size in torch._foreach_norm(filled, math.inf)] if filled else []
        return everywhere(torch.stack([*sizes, torch.zeros((), device=local_part(every[0]).device)]).isfinite().all())

    def largest(order: float) -> float:  # of the norms; NaN if one of them is
        return float(torch.stack([size.float() for size in (*torch._foreach_norm(filled, order), *sizes)]).max())

    # torch's largest entry takes 20 times as long as its sum of squares on a CPU; that one may overflow, though
    return math.isfinite(largest(2)) or math.isfinite(largest(math.inf))

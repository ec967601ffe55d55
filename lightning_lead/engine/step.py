"""One game step: every turn takes a direction from its rule, and the optimizers move along it.

    for each turn:   d = rule(oracle of the turn's batch);   θ ← P(optimizer(θ, d));   the rule may adjust θ

P is the player's constraint, if it has one; where the rule adds to the optimizer's step it follows both. The opponent
of a later turn has moved already: that is alternating play. A simultaneous game has one turn, of all players.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_clip
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Vector
from lightning_lead.calculus._rng import mix_seed
from lightning_lead.calculus._terms import OracleStatistics
from lightning_lead.calculus.lookahead import Lookahead
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.engine.turns import Turn

__all__ = ["GameStep", "PlayedStep"]


class PlayedStep(NamedTuple):
    """The outcome of a game step.

    Example:
        >>> PlayedStep({}, {}, {"gradients": 2}).evaluations
        {'gradients': 2}
    """

    statistics: dict[str, OracleStatistics]  # player -> of its last turn; cross term of its first that was not skipped
    notes: dict[str, float]  # of the rule, for logging
    evaluations: dict[str, int]  # "gradients" and "hessian_products" that the rule asked for, over all turns
    turns: Mapping[str, int] = {}  # player -> how many it had


@final
class GameStep:
    """The turns of one game step, in the order of play.

    Args:
        game: the rule, the order of play, and their state; already started.
        turns: the moves, in order, with their micro-batches.
        live: name -> the players' parameters, which are moved in place.
        optimizers: that hold these parameters; each moves once per turn of a player that it holds.
        lookahead: the optimizers' next step, for rules that look ahead; made of the same optimizers. It also has the
            players' constraints, which move parameters back after each turn.
        make_oracle: (turn, seed) -> the derivatives of that turn.
        seed: of all random numbers of the step.
        clip: largest norm of a player's direction, > 0, or None.
        before_turn: (index, turn) -> called before a turn begins.
        before_player: (player) -> called with its direction in `.grad`, averaged over ranks, before it is clipped; it
            may change it.
        step_optimizer: (optimizer, last) -> steps it; `last` is True once, at the end of the game step. Default
            `optimizer.step()`.

    Example:
        >>> import torch
        >>> from lightning_lead.engine import LEADStrategy
        >>> x, y = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
        >>> live = {"x": [x], "y": [y]}
        >>> def losses(point, wanted, *, replay):
        ...     f = point["x"][0] * point["y"][0]
        ...     return {"x": f, "y": -f}
        >>> def make_oracle(turn, seed):
        ...     return GameOracle({name: tuple(params) for name, params in live.items()}, [losses])
        >>> game, sgd = LEADStrategy(1.0), torch.optim.SGD([x, y], lr=0.5)
        >>> game.start({name: tuple(params) for name, params in live.items()})
        >>> turns = [Turn(("x",), [None], 1), Turn(("y",), [None], 1)]
        >>> lookahead = Lookahead(live, [sgd])
        >>> step = GameStep(game, turns, live, optimizers=[sgd], lookahead=lookahead, make_oracle=make_oracle)
        >>> step.play().evaluations
        {'gradients': 2, 'hessian_products': 1}
        >>> x.item(), y.item()
        (0.5, 1.0)
    """

    def __init__(
        self,
        game: GameStrategy,
        turns: Sequence[Turn],
        live: Mapping[str, Sequence[nn.Parameter]],
        *,
        optimizers: Sequence[Optimizer],
        lookahead: Lookahead,
        make_oracle: Callable[[Turn, int], GameOracle],
        seed: int = 0,
        clip: float | None = None,
        before_turn: Callable[[int, Turn], object] | None = None,
        before_player: Callable[[str], object] | None = None,
        step_optimizer: Callable[[Optimizer, bool], object] = lambda optimizer, last: optimizer.step(),
    ) -> None:
        check_arguments(GameStep, locals())
        check_clip(clip)
        self._game, self._turns, self._live = game, turns, live
        self._optimizers, self._lookahead, self._make_oracle = optimizers, lookahead, make_oracle
        self._seed, self._clip = seed, clip
        self._before_turn, self._before_player, self._step_optimizer = before_turn, before_player, step_optimizer

    def play(self, *, begin: int = 0) -> PlayedStep:
        """Play every turn: a direction, clipped, then the steps of the optimizers that hold the moving players.

        Args:
            begin: the first turn to play; those before it were played already, before the run was resumed.
        """
        step, evaluations, moved = PlayedStep({}, {}, {}), Counter[str](), set[str]()
        for index, turn in list(enumerate(self._turns))[begin:]:
            if self._before_turn is not None:
                self._before_turn(index, turn)
            oracle = self._make_oracle(turn, mix_seed(self._seed, index))
            played = self._game.play_turn(oracle, turn.players, self._live)
            evaluations.update(played.evaluations)
            for name, seen in played.statistics.items():
                if name in moved:  # of a player's turns in one game step, its first move alone has a cross term
                    first = step.statistics[name]
                    seen = seen._replace(cross_norm=first.cross_norm, cosine=first.cosine)
                step.statistics[name] = seen
                moved |= set() if played.skipped else {name}
            step.notes.update(played.notes)
            self._move(turn, skipped=played.skipped, last=index == len(self._turns) - 1)
        turns = Counter(name for turn in self._turns for name in turn.players)
        return step._replace(evaluations=dict(evaluations), turns=turns)

    def _move(self, turn: Turn, *, skipped: bool, last: bool) -> None:
        """Move the turn's players along the directions in `.grad`.

        A skipped turn has none: no hook and no clip, and the optimizers' step moves nothing, but counts.
        """
        adjusts = self._game.rule.needs.adjusts_weights and not skipped
        constrained = [] if skipped else [name for name in turn.players if name in self._lookahead.constraints]
        kept = self._live if adjusts else constrained
        before = {name: tuple(p.detach().clone() for p in self._live[name]) for name in kept}
        if self._before_player is not None and not skipped:
            for name in turn.players:
                self._before_player(name)
        if self._clip is not None and not skipped:
            for name in turn.players:
                nn.utils.clip_grad_norm_(self._live[name], self._clip)
        self._lookahead.hand_over(keep=not skipped)
        moving = [p for name in turn.players for p in self._live[name]]
        owners = self._owners(turn.players, {id(p) for p in moving})
        for optimizer in owners:
            self._step_optimizer(optimizer, last and optimizer is owners[-1])
        for parameter in moving:
            parameter.grad = None
        last = adjusts and self._game.rule.needs.adds_to_step
        if not last:
            self._constrain(constrained, before)
        if adjusts:
            self._game.adjust_weights(before, self._live, turn.players)
            # means of points of a convex set are in it, up to rounding
            self._constrain(constrained if last else self._lookahead.constraints, before if last else None)

    @torch.no_grad()
    def _constrain(self, names: Iterable[str], before: Mapping[str, Vector] | None) -> None:
        """Move players back into their sets, in place, from where they were `before` or to the nearest point."""
        for name in names:
            constraint = self._lookahead.constraints[name]
            for k, parameter in enumerate(self._live[name]):
                inside = (
                    constraint.project(parameter) if before is None else constraint.move(before[name][k], parameter)
                )
                parameter.copy_(inside)

    def _owners(self, players: Sequence[str], moving: set[int]) -> list[Optimizer]:
        owners = [o for o in self._optimizers if any(id(p) in moving for g in o.param_groups for p in g["params"])]
        if not owners:
            raise ConfigurationError(
                f"Cannot move {tuple(players)} because no optimizer holds their parameters; "
                "return one from configure_optimizers()"
            )
        return owners

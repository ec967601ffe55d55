"""Who plays: the players of a fit, their constraints, and the look before their first game step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import rank_zero_info
from lightning_lead._sharding import reshard
from lightning_lead.calculus._chain.dual import has_compiled
from lightning_lead.calculus._players import check_players, listed
from lightning_lead.calculus._rng import mix_seed
from lightning_lead.constraints.base import AbstractConstraint, check_constraints
from lightning_lead.engine.turns import Turn
from lightning_lead.training._first_look import look_before, probe_module, warn_if_apart
from lightning_lead.training._rank_watch import RankWatch
from lightning_lead.training._turn_oracles import TurnOracles

__all__ = ["StartedGame", "moving"]


class StartedGame(TurnOracles):
    """A module whose game starts, anew if its players change; `LeadMixin` plays it, and keeps the attributes."""

    clip: float | None
    _playing: list[tuple[int, bool]]  # the parameters of the game that was started, and which of them move

    def _live(self) -> dict[str, list[nn.Parameter]]:
        """Name -> the parameters that are trained; all of a player that is frozen while the other one moves."""
        reshard(self._units)  # samples may have left parameters whole
        players = listed(self.players())
        trained = {name: [p for p in params if p.requires_grad] for name, params in players.items()}
        if self.game.play == "simultaneous" or not any(trained.values()):
            return trained
        return {name: trained[name] or params for name, params in players.items()}

    def _constraints(self, live: Mapping[str, Sequence[Tensor]]) -> Mapping[str, AbstractConstraint]:
        """Return the constraints of a game step; before the first one of a fit they are checked."""
        constraints = self.constraints()
        if constraints and not self._probed:
            check_constraints(constraints, live)
            rule = self.game.rule
            if rule.needs.unconstrained:
                raise ConfigurationError(
                    f"Cannot play {rule.name} with constraints because its directions do not vanish, nor point out of "
                    f"the set, where the constrained game is at rest; use LEADStrategy(), game='ExtraAdam' or another "
                    f"of docs/players.md (got constraints of {', '.join(map(repr, constraints))})"
                )
        return constraints

    def _start_game(self, live: Mapping[str, Sequence[nn.Parameter]]) -> None:
        needs = self.game.rule.needs
        several = needs.plays_several or not needs.uses_opponent
        check_players(live, rule=self.game.rule.name, alone=not needs.uses_opponent, several=several)
        local = self.local_players()
        if strange := local - live.keys():
            raise ConfigurationError(
                f"Cannot play because local_players() names no players; choose from {list(live)} (got {set(strange)})"
            )
        if local and self.trainer.world_size > 1 and (needs.compares or self.clip is not None):
            what, instead = ("clip", "leave clip out") if not needs.compares else (self.game.rule.name, "use another")
            raise ConfigurationError(
                f"Cannot use {what} on several ranks because it weighs whole directions, and of "
                f"{' and '.join(map(repr, sorted(local)))} each rank has its own part; {instead}, or one process"
            )
        self.game.start({name: tuple(params) for name, params in live.items()})
        self._playing = moving(live)
        for name, params in listed(self.players()).items():
            for parameter in params:
                if not parameter.requires_grad:
                    parameter.grad = None  # of before it was frozen: its optimizer would move it still
            if not any(p.requires_grad for p in params):
                rank_zero_info(f"The player {name!r} is frozen as a whole: it stays, and the other one moves alone")
        simultaneous = self.game.play == "simultaneous"
        # a rule that displaces looks from two points; compiled code allows one reverse pass, and two losses take two
        self._joint = simultaneous and needs.evaluates_once and not needs.displaces and not has_compiled(self)
        self._joint = self._joint and not self._units
        # whatever draws from Python or numpy must draw the same again where a batch is evaluated again
        self._noise.torch_only = needs.evaluates_once and (self._joint or not simultaneous)

    def _look_before(self, turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]], seed: int) -> None:
        """Check the losses and probe the game on the last turn, which every player's loss can be evaluated on."""

        def probe() -> None:
            self._compare_ranks(turns, live)  # the second time another rule is probed, and on one rank alone it may be
            self._probe(turns, live, seed)

        look_before(
            self,
            self.game,
            self._batch_losses(turns[-1].micro_batches[0], mix_seed(seed, 0)),
            live,
            probe,
            ignored=self._own_attributes(),
        )

    def _probe(self, turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]], seed: int) -> None:
        probe_module(self, self._oracle(turns[-1], live, seed, probing=True), self.game.rule)

    def _warn_if_apart(self) -> None:
        if all(moves for _, moves in self._playing):
            warn_if_apart(self.game.rule, self._graphs.values())

    def _compare_ranks(self, turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]]) -> None:
        if self.trainer.world_size > 1 and (watch := RankWatch.of(self.trainer)) is not None:
            watch.before_game_step(self, turns, live)

    # ---- what the class that plays implements -----------------------------------------------------------------------

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        raise NotImplementedError

    def constraints(self) -> Mapping[str, AbstractConstraint]:
        raise NotImplementedError


def moving(live: Mapping[str, Sequence[Tensor]]) -> list[tuple[int, bool]]:
    """Tell by whom the game is played: the parameters, and which of them move."""
    return [(id(p), p.requires_grad) for params in live.values() for p in params]

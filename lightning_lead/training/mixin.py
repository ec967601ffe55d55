"""LeadMixin: players with losses of their own, trained by a game rule under a Lightning Trainer.

One `training_step` is one game step: every player moves, and `trainer.global_step` grows by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_clip, check_positive
from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead._lightning import (
    Callback,
    refuse_mixture,
)
from lightning_lead._sharding import fsdp_units
from lightning_lead.calculus._graph import LossGraph
from lightning_lead.calculus._rng import PrivateNoise, mix_seed
from lightning_lead.calculus._terms import OracleStatistics
from lightning_lead.calculus.lookahead import Lookahead
from lightning_lead.calculus.replay import Recomputation
from lightning_lead.checkpoints._game import (
    check_optimizer_kinds,
    implementations,
    restore_implementation,
)
from lightning_lead.checkpoints._generators import have_moved
from lightning_lead.checkpoints._sharded import keep_optimizers
from lightning_lead.checkpoints._whole import use_whole_files
from lightning_lead.constraints.base import AbstractConstraint
from lightning_lead.engine._batches import batch_size, split_batch
from lightning_lead.engine._probe import naming_suspects
from lightning_lead.engine.lead_strategy import LEADStrategy
from lightning_lead.engine.named_rules import as_game
from lightning_lead.engine.step import GameStep, PlayedStep
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.engine.turns import Turn, check_turns, without_frozen
from lightning_lead.rules.base import AbstractGameRule
from lightning_lead.training._hook_watch import HookWatch
from lightning_lead.training._log import GameLog
from lightning_lead.training._open_step import OpenStep, loader_states
from lightning_lead.training._precision import loss_scale_of, unscaled
from lightning_lead.training._purity import unsaved_state
from lightning_lead.training._rank_watch import RankWatch
from lightning_lead.training._schedulers import Schedulers
from lightning_lead.training._sharding_checks import check_sharded_game, has_sharding
from lightning_lead.training._started_game import StartedGame, moving
from lightning_lead.training._trainer_checks import check_configuration, check_optimizers, check_trainer

__all__ = ["LeadMixin"]


class LeadMixin(StartedGame):
    """Game steps for any LightningModule that implements `players()` and `player_losses(batch)`.

    Put it first among the bases of a LightningModule and call `super().__init__(game=...)`. All random numbers of a
    game step are a function of (seed, rank, step): a resumed run draws what the uninterrupted one would have drawn.

    Args:
        game: rule, play and state; or a rule; or a name, as in "ExtraAdam"; default `LEADStrategy()`, the exact term
            with a coupling that follows the optimizer's momentum.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: number of micro-batches that each turn's batch is split into, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> from lightning_lead._lightning import LightningModule  # of pytorch_lightning, or of lightning.pytorch
        >>> class Saddle(LeadMixin, LightningModule):
        ...     def __init__(self):
        ...         super().__init__(game=LEADStrategy(coupling=0.5))
        ...         self.x, self.y = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        ...     def players(self):
        ...         return {"x": [self.x], "y": [self.y]}
        ...     def player_losses(self, batch):
        ...         return {"x": (self.x * self.y).sum(), "y": -(self.x * self.y).sum()}
        >>> Saddle().automatic_optimization
        False
    """

    last_step: PlayedStep  # there is none before the first game step

    _passing: ClassVar[tuple[str, ...]] = (
        *("last_step", "_schedulers", "is_repeat"),
        *("_hparams", "_hparams_initial", "_hparams_name", "_log_hyperparams"),
    )
    """Attributes of the class that no resumed run misses, besides those of `__init__` here."""

    is_repeat: bool = False
    """True while a loss is evaluated again on the batch of a turn: state of one's own is to stay as it is."""

    def __init__(
        self,
        *args: Any,
        game: GameStrategy | AbstractGameRule | str | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        **kwargs: Any,
    ) -> None:
        check_arguments(LeadMixin, locals())
        super().__init__(*args, **kwargs)
        check_clip(clip)
        check_positive(accumulate=accumulate)
        self.automatic_optimization = False
        self.game = as_game(game) if game is not None else LEADStrategy()
        self.clip, self.accumulate = clip, accumulate
        self._noise_seed: int | None = None
        self._noise = PrivateNoise()
        self._resumed = False
        self._restored: tuple[int, Any] | None = None
        self._probed = False
        self._graphs: dict[str, LossGraph] = {}
        self._joint = False
        self._recomputation: Recomputation | None = None
        self._game_log = GameLog()
        self._playing: list[tuple[int, bool]] = []
        self._open: OpenStep | None = None
        self._draws, self._before_batch = False, None
        self._turns_made = 0
        self._generators: Tensor | None = None
        self._stepped_in, self._loaders = 0, None
        self._epochs_ended, self._epoch_end_missing = 0, False
        self._unsaved = set[str]()
        self._turns_played = Counter[str]()
        self._built: list[list[dict[str, Any]]] = []
        self._units: list[Any] = []
        self.hooks_run: set[str] = set()
        """Hooks of this class that have run in this fit."""

    @property
    def is_looked_at(self) -> bool:
        """True while losses are looked at before the first game step of a fit, from which no weight moves."""
        return self.is_repeat and not self._probed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_mixture(cls)

    # ---- what a user implements -------------------------------------------------------------------------------------

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return name -> parameters of each player, in the order of play; of two, or of more if the rule can."""
        raise NotImplementedError("Cannot play because players() is missing; return {name: parameters} for two players")

    def constraints(self) -> Mapping[str, AbstractConstraint]:
        """Override it to keep players in sets: player -> constraint; asked in every game step, after its start.

        Points that a rule looks ahead to are projected as well, so that no loss meets a point outside.
        """
        return {}

    def local_players(self) -> frozenset[str]:
        """Override it to name players that each rank has its own of, as a perturbation of each of its samples.

        Their directions are not averaged over ranks but weighted by the rank's share of the samples, and their
        parameters may differ between ranks. A checkpoint holds those of rank 0.
        """
        return frozenset()

    def player_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return name -> scalar loss that the player minimises, a mean over the batch; or define one per player."""
        return {name: self.player_loss(name, batch) for name in self.players()}

    def player_loss(self, name: str, batch: Any) -> Tensor:
        """Return the loss of one player, computed only where it is wanted; by default by its `<name>_loss(batch)`."""
        method = getattr(self, f"{name}_loss", None)
        if method is None:
            raise NotImplementedError(
                f"Cannot play because the loss of {name!r} is missing; define player_losses(batch) -> "
                f"{{name: scalar loss}}, or {name}_loss(batch)"
            )
        loss: Tensor = method(batch)
        return loss

    # ---- what a user may override -----------------------------------------------------------------------------------

    def wanted_losses(self, batch: Any, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Return the losses in `wanted`; by default all of `player_losses`, or else those by `player_loss`."""
        if type(self).player_losses is not LeadMixin.player_losses:
            return self.player_losses(batch)
        return {name: self.player_loss(name, batch) for name in self.players() if name in wanted}

    def game_turns(self, batch: Any) -> list[Turn]:
        """Return the turns of a game step on a batch from the loader; by default one per player, on all of it."""
        # on one process and in one piece the size is not needed, and a batch may be anything
        size = 1 if self.accumulate == 1 and self.trainer.world_size == 1 else batch_size(batch)
        parts = [batch] if self.accumulate == 1 else split_batch(batch, size, self.accumulate)
        names = tuple(self.players())
        if self.game.play == "simultaneous":
            return [Turn(names, parts, size)]
        return [Turn((name,), parts, size) for name in names]

    def on_game_step_start(self, batch: Any) -> None:
        """Override it for what comes before the turns of a game step, inside of its private noise.

        A player that lives for one batch is set anew here, followed by `forget_player`. A run that is resumed in the
        middle of a game step goes on with the checkpoint's.

        Args:
            batch: from the loader.
        """

    def on_before_player_step(self, player: str) -> None:
        """Override it to look at a player's direction, or to change it, in `.grad` of its parameters, once per turn.

        It is averaged over ranks and not yet clipped; what is done to it must be the same on every rank.

        Args:
            player: that moves next.
        """

    def on_game_step_end(self, batch: Any) -> None:
        """Override it for what belongs to a game step, however often its losses are evaluated; weights have moved.

        Args:
            batch: from the loader.
        """

    # ---- the game step ----------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Play one game step, then step the schedulers, then log."""
        self._schedulers.check()
        live, self._noise.device = self._live(), self.device
        made, self._turns_made = self._turns_made, 0  # of a step that a checkpoint has interrupted
        seed = mix_seed(self._noise_seed or 0, self.trainer.global_rank, self.trainer.global_step)
        with self.private_noise(seed):
            if not made:
                self.on_game_step_start(batch)
            turns = without_frozen(self.game_turns(batch), live)
        check_turns(turns, alone=self.trainer.world_size == 1)
        constraints = self._constraints(live)
        self._compare_ranks(turns, live)
        self._share_over_ranks(batch)
        if made >= len(turns):
            raise CheckpointMismatchError(
                f"Cannot complete the game step because the checkpoint was saved after {made} of its turns; play as "
                f"many as the run that saved it (got a step of {len(turns)})"
            )
        if self._playing and self._playing != moving(live):
            self._start_game(live)  # a callback froze or unfroze a layer: displacements begin anew
            self._probed = False
        first, begins = not self._probed, self._waits_until() == self.trainer.global_step > 0
        if begins and not made:  # what the other player did while this one waited is no move in the game
            self._start_game(live)
        swap = self._swap(live)
        self._open = current = OpenStep(self, self.game, live, self.trainer.optimizers, swap, self._before_batch)
        self._set_generators(of_turn=True)
        current.begin_turn(made, turns[made])
        if first:
            self._graphs.clear()
            if not self.game.rule.needs.evaluates_once:  # of other rules the first turns tell what has to be known
                self.is_repeat = True
                try:
                    with self._recomputing(look=True):
                        self._look_before(turns, live, seed)
                finally:
                    self.is_repeat = False
                self._compare_ranks(turns, live)
            self._probed = True
        else:
            self._audit(turns, live, seed)
        if begins:  # after the look of a run that is resumed here: the uninterrupted one has none
            self._graphs.clear()
        meets_first = begins or (first and self._waits_until() <= self.trainer.global_step)
        lookahead = Lookahead(live, self.trainer.optimizers, clip=self.clip, constraints=constraints)
        step = GameStep(
            self.game,
            turns,
            live,
            optimizers=self.trainer.optimizers,
            lookahead=lookahead,
            make_oracle=lambda turn, turn_seed: self._oracle(turn, live, turn_seed, swap=swap, lookahead=lookahead),
            seed=seed,
            clip=self.clip,
            before_turn=current.begin_turn,
            before_player=self.on_before_player_step,
            step_optimizer=self._step_optimizer,
        )
        before = unsaved_state(self, self._own_attributes()) if first else {}
        with naming_suspects(self), self._recomputing(look=first or begins):
            self.last_step = played = step.play(begin=made)
        if first:
            after = unsaved_state(self, self._own_attributes())
            self._unsaved |= {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}
        self._turns_played.update(played.turns)
        if self._before_batch is not None:
            self._draws = self._draws or have_moved(self._before_batch)
        # not where an exception has ended the step: a checkpoint that is saved then is one of its middle
        self._open, self._stepped_in = None, self._batches_taken()
        if meets_first:
            self._warn_if_apart()
        self._schedulers.step("step", self.trainer.global_step)
        self._follow_step()
        self.log_game_step(played.statistics, played.notes)
        self.on_game_step_end(batch)
        self._loaders = loader_states(self.trainer)
        self.hooks_run.add("training_step")

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does, but not from a loss that is evaluated again."""
        if not self.is_repeat:
            super().log(*args, **kwargs)

    def log_game_step(self, record: Mapping[str, OracleStatistics], notes: Mapping[str, float]) -> None:
        """Log losses; every `log_every_n_steps`, also norms of gradients and cross terms and their cosines.

        All are as this rank saw them. The rule's notes, as a solver's iterations, are logged where they have changed
        and with the details; the number of skipped turns, once there is one. The progress bar shows the losses of the
        first step, and of the last one that was logged.
        """
        self._game_log.write(self, record, notes, self.game.skipped)

    @contextmanager
    def private_noise(self, seed: int) -> Iterator[None]:
        """Draw all random numbers inside as a function of `seed`, and leave every generator outside as it was.

        Args:
            seed: any integer.
        """
        self._noise.device = self.device
        with self._noise.seeded(seed):
            yield

    def forget_player(self, player: str) -> None:
        """Begin one player anew: call it where its parameters were set in place between two game steps.

        A perturbation that lives for one batch is such a player: what the rule and the optimizer remember of it is of
        another one, and its jump to new values is no move in the game. The other players keep their memory. On several
        ranks its direction is averaged, and it is one perturbation for all their batches, unless `local_players()`
        names it.

        Args:
            player: its name in `players()`.

        Raises:
            ConfigurationError: there is no such player, or a game step is being played.
        """
        if self._open is not None:
            raise ConfigurationError(
                f"Cannot forget {player!r} in the middle of a game step, which goes on with what it remembers; call it "
                "before, as in on_train_batch_start, or in on_game_step_end"
            )
        live = self._live()
        if player not in live:
            raise ConfigurationError(f"Cannot forget {player!r} because it is no player; choose one of {list(live)}")
        self.game.forget(player, {name: tuple(params) for name, params in live.items()})
        for optimizer in self.trainer.optimizers:
            for parameter in live[player]:
                optimizer.state.pop(parameter, None)

    def _own_attributes(self) -> set[str]:
        """The names of attributes that belong to Lightning and to this package."""
        passing = {name for cls in type(self).__mro__ for name in vars(cls).get("_passing", ())}
        return passing | vars(LeadMixin()).keys()

    def _share_over_ranks(self, batch: Any) -> None:
        """Exchange what the losses of this game step have to know of other ranks; by default nothing."""

    def _audit(self, turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]], seed: int) -> None:
        """Look again, now and then, at what the first look has found of the losses; by default nothing is kept."""

    def _waits_until(self) -> int:
        """Return the game step from which on both players move; one alone moves before."""
        return 0

    def _follow_step(self) -> None:
        """Move what belongs to a game step besides the players, before hooks and callbacks see that it is complete."""

    def _step_optimizer(self, optimizer: Optimizer, last: bool) -> None:
        """Step through Lightning, for its hooks; by its wrapper, which counts a global step, once per game step."""
        with unscaled(self.trainer):
            if not last:
                self.trainer.strategy.optimizer_step(optimizer, lambda: None)
            else:
                wrapped = self.optimizers()
                candidates = wrapped if isinstance(wrapped, list) else [wrapped]
                (counting,) = (c for c in candidates if getattr(c, "optimizer", c) is optimizer)
                counting.step()
        if self._open is not None:
            self._open.stepped = True

    def _completes(self) -> bool:
        # a checkpoint holds the local players of rank 0, with which another rank's turn would be another one
        return not self.local_players() or self.trainer.world_size == 1

    # ---- Lightning hooks --------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Refuse what cannot work, in the first hook of a fit; return a callback that looks for forgotten hooks.

        Lightning asks before it reads a checkpoint: from here on a damaged one is refused, in whatever it does.
        """
        use_whole_files(self.trainer)
        if has_sharding(self.trainer):
            keep_optimizers(self.trainer.strategy)
        if self.trainer.state.fn != "fit":
            return []
        self._begin_fit()
        check_trainer(self.trainer, self.game.rule)
        self.game.loss_scale = loss_scale_of(self.trainer)
        check_configuration(self)
        self.hooks_run.clear()
        RankWatch.put_first(self.trainer)
        return HookWatch.unless_in(self.trainer.callbacks)  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Check the players, give the rule its starting point, fix the seed of the noise."""
        check_trainer(self.trainer, self.game.rule)
        self._units = fsdp_units(self) if has_sharding(self.trainer) else []
        if has_sharding(self.trainer):
            check_sharded_game(self, self._live())
        self._start_game(self._live())
        if not self._resumed:
            self._turns_played.clear()
            self._restored = None
        elif self._restored is not None and self._restored[1] is not None:
            check_optimizer_kinds(self.trainer.optimizers, self._restored[1])
        if not self._resumed or self._noise_seed is None:
            self._noise_seed = int(torch.randint(2**62, ()).item())
        self._noise_seed = int(self.trainer.strategy.broadcast(self._noise_seed))
        self._resumed, self._probed, self._game_log = False, False, GameLog()
        self._open, self._stepped_in, self._loaders = None, 0, None
        if self._recomputation is not None:
            self._recomputation.remove()
            self._recomputation = None
        self._built = implementations(self.trainer.optimizers)  # between this hook and the next they are restored
        self.hooks_run.add("on_fit_start")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the game in a fit; strategies that shard parameters load it when the fit has started, which starts anew.

        Raises:
            CheckpointMismatchError: see `SavedGame`.
        """
        super().on_load_checkpoint(checkpoint)
        if self._resumed and "on_fit_start" in self.hooks_run:
            built = self._built  # before the checkpoint's settings
            LeadMixin.on_fit_start(self)
            self._built = built

    def on_train_start(self) -> None:
        """Restore optimizers' implementations, and check optimizers."""
        self._check_restored()
        restore_implementation(self.trainer.optimizers, self._built)
        check_optimizers(self.trainer, self._live(), self.game.rule)
        self._schedulers = Schedulers(self.trainer)
        self._loaders = loader_states(self.trainer)
        if self._epoch_end_missing:  # a checkpoint of an epoch's last batch, behind which Lightning goes on
            for optimizer in self.trainer.optimizers:
                optimizer._opt_called = True  # type: ignore[attr-defined]  # torch warns of schedulers that come first
            self._schedulers.step("epoch", self.current_epoch)
        self._epochs_ended, self._epoch_end_missing = self.current_epoch, False
        self._set_generators(of_turn=False)
        self.hooks_run.add("on_train_start")

    def on_train_epoch_end(self) -> None:
        """Step the schedulers that ask for `interval="epoch"`."""
        self._epochs_ended = self.current_epoch + 1
        self._schedulers.step("epoch", self._epochs_ended)
        self.hooks_run.add("on_train_epoch_end")

    def on_validation_start(self) -> None:
        """Make ranks' running statistics agree; in training they drift apart."""
        self.sync_buffers()

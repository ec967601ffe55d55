"""The game in a Lightning checkpoint, and the fit that goes on from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._configured import configurations
from lightning_lead._distributed import broadcast_buffers, gather_in_order
from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead._lightning import LightningModule, rank_zero_info, rank_zero_warn
from lightning_lead._sharding import map_tensors, whole
from lightning_lead.checkpoints._game import (
    KEY,
    MID_STEP_VERSION,
    VERSION,
    check_optimizer_states,
    check_same_parameters,
    optimizer_record,
    parameter_shapes,
    saved_game,
)
from lightning_lead.checkpoints._generators import pack_states, read_states, set_states
from lightning_lead.checkpoints._sharded import order_by_position
from lightning_lead.checkpoints._whole import refuse_damaged
from lightning_lead.engine._rule_memory import settled
from lightning_lead.engine.named_rules import name_games
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.training._open_step import OpenStep, align_loops
from lightning_lead.training._rank_watch import RankWatch
from lightning_lead.training._sharding_checks import has_sharding

__all__ = ["SavedGame"]


# Lightning's own refuses calls on an instance, whose weights would not change
_of_classes: Any = type(vars(LightningModule)["load_from_checkpoint"])


class SavedGame(LightningModule):
    """A module whose game is in its checkpoints; `LeadMixin` plays it, and keeps the attributes."""

    game: GameStrategy
    hooks_run: set[str]
    _noise_seed: int | None
    _resumed: bool  # between the loading of a checkpoint and the start of its fit
    _built: list[list[dict[str, Any]]]  # settings of the optimizers' groups, before those of a checkpoint
    _open: OpenStep | None  # the game step that is under way
    _restored: tuple[int, Any] | None  # game step and optimizers of the checkpoint, until they are restored
    _turns_played: Counter[str]
    _turns_made: int  # of the step that is played next
    _draws: bool  # game steps have been seen to move Python's or numpy's generator
    _before_batch: Any  # their states, where they may be needed: reading takes 60 µs
    _generators: Tensor | None  # the same in a checkpoint, and of the beginning of the turn that it was saved in
    _stepped_in: int  # batches taken when the last game step was complete
    _loaders: Any  # their positions then
    _epochs_ended: int
    _epoch_end_missing: bool
    _unsaved: set[str]  # attributes that the first game step has moved, and that no checkpoint holds

    @_of_classes
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **settings: Any) -> Any:
        """Make a module of a checkpoint as Lightning does, if the file is undamaged."""
        refuse_damaged(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **settings)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the game: rule, play, state, seed, and the players' shapes. All ranks must save.

        Within a batch it is the checkpoint of the beginning of the turn that is being made, and a fit that goes on from
        it completes the game step.
        """
        if (watch := RankWatch.of(self.trainer)) is not None:
            if watch.failed:
                raise ConfigurationError(
                    "Cannot save because the fit has failed, and a checkpoint takes all ranks; go on from the one "
                    f"before (got {watch.failed})"
                )
            watch.compare("a checkpoint", self)
        self.sync_buffers()
        if self._trainer is not None and has_sharding(self.trainer):
            order_by_position(checkpoint, self.trainer.optimizers, self)
        current = self._open
        with nullcontext() if current is None else current.at_rest():
            checkpoint[KEY] = {
                "version": VERSION,
                "players": parameter_shapes(self, self._live()),
                "noise_seed": self._noise_seed,
                "turns": dict(self._turns_played),
                "game": map_tensors(whole, self.game.state_dict() if current is None else {}),
                "description": self.game.description,
                "networks": configurations(self),
                "optimizers": optimizer_record(self.trainer.optimizers if self._trainer is not None else ()),
                **self._findings(),
            }
            if current is not None:
                # of Lightning's weight averaging the live weights are elsewhere
                current.write(checkpoint.get("current_model_state", checkpoint["state_dict"]))
                checkpoint[KEY]["game"] = map_tensors(whole, settled(current.memory))
                if current.torn or (current.turns_made and not self._completes()):
                    checkpoint[KEY] |= {"version": MID_STEP_VERSION, "torn": True}
                elif current.turns_made:
                    checkpoint[KEY] |= {"version": MID_STEP_VERSION, "turns_made": current.turns_made}
        complete = current is None and self._trainer is not None and self._stepped_in == self._batches_taken()
        generators = [read_states()] if current is None else current.generators or [read_states()] * 2
        row = torch.stack([pack_states(states) for states in generators])[None]
        several = self._trainer is not None and self.trainer.world_size > 1
        checkpoint[KEY]["generators"] = gather_in_order(row.to(self.device), 1).cpu() if several else row
        ended = align_loops(checkpoint, complete=complete, loaders=self._loaders)
        checkpoint[KEY]["epoch_end_missing"] = ended and self._epochs_ended == self.current_epoch
        if self._stepped_in:
            self._warn_of_unsaved()
        name_games(checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}))
        self.hooks_run.add("on_save_checkpoint")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """In a fit, load the game, if it is the same one; elsewhere only the weights matter.

        Raises:
            CheckpointMismatchError: other networks, another rule, another play, or a checkpoint without a game.
        """
        if self._trainer is None or self.trainer.state.fn != "fit":
            return  # only the weights are wanted
        saved = saved_game(checkpoint)
        check_same_parameters(saved["players"], parameter_shapes(self, self._live()))
        self.game.load_state_dict(saved["game"])
        self._noise_seed, self._resumed = saved["noise_seed"], True
        self._turns_made = saved.get("turns_made", 0)
        self._restored = checkpoint["global_step"], saved.get("optimizers")
        generators = saved.get("generators")  # of every rank, if there were as many
        if generators is not None and len(generators) == self.trainer.world_size:
            self._generators = generators[self.trainer.global_rank]
        self._take_findings(saved)
        self._epoch_end_missing = saved.get("epoch_end_missing", False)
        self._turns_played = Counter(saved.get("turns", self._turns_until(checkpoint["global_step"])))
        self.hooks_run.add("on_load_checkpoint")

    def note_generators(self) -> None:
        """Read the states that a checkpoint within this batch begins with; before the batch's first hook.

        As long as steps have not moved them, they are at any moment of a step what they were before it. That is looked
        at in the first step and where one is logged.
        """
        due = self._draws or self._looks_closer()
        self._before_batch = read_states() if due else None

    def _set_generators(self, *, of_turn: bool) -> None:
        """Set Python's and numpy's generators as a checkpoint has them: before the first batch, and before its turn."""
        states = [] if self._generators is None else list(self._generators)
        if int(of_turn) < len(states):
            set_states(states[int(of_turn)])
        if of_turn:
            self._generators = None

    def _begin_fit(self) -> None:
        """Forget what an earlier fit has left, also one that has failed after it loaded a checkpoint."""
        self._resumed, self._restored, self._turns_made, self._generators = False, None, 0, None
        self._epoch_end_missing, self._unsaved, self._draws = False, set(), False

    def _check_restored(self) -> None:
        """Refuse to go on if what Lightning was to restore is not what was saved."""
        restored, self._restored = self._restored, None
        if restored is None:
            return
        step, optimizers = restored
        if step != self.trainer.global_step:
            raise CheckpointMismatchError(
                f"Cannot resume because the checkpoint is of game step {step}, and its counts of batches are not; take "
                f"another one (got step {self.trainer.global_step})"
            )
        check_optimizer_states(self.trainer.optimizers, optimizers)
        names = ["betas", "momentum", "weight_decay", "eps"] + ([] if self.trainer.lr_scheduler_configs else ["lr"])
        for built, optimizer in zip(self._built, self.trainer.optimizers, strict=True):
            for mine, group in zip(built, optimizer.param_groups, strict=False):
                for name in names:
                    saved = group.get(name)
                    saved = tuple(saved) if isinstance(saved, list) else saved  # of a file of sharded parameters
                    if name in mine and mine[name] != saved:
                        rank_zero_info(
                            f"The run goes on with {name}={group.get(name)} of its checkpoint, not with {mine[name]}, "
                            f"as {type(optimizer).__name__} was built; set it in on_train_start() to change it"
                        )

    def sync_buffers(self) -> None:
        """Give every rank the buffers of rank 0; all ranks must call it."""
        if self._trainer is not None:
            broadcast_buffers([self], self.trainer.strategy)

    def _warn_of_unsaved(self) -> None:
        """Name, once in a fit, what its first game step has moved and is not in the checkpoint."""
        moved, self._unsaved = sorted(self._unsaved), set()
        if moved and type(self).on_save_checkpoint.__module__ == __name__:  # the user's own decides
            rank_zero_warn(
                f"{', '.join(moved)} moved in training and will not be in the checkpoint: a run that is resumed begins "
                "with the values of before, and differs from this one where a loss depends on them; use "
                "register_buffer(), or save them in on_save_checkpoint() and read them in on_load_checkpoint()"
            )

    def _turns_until(self, step: int) -> dict[str, int]:
        """Return how often each player has moved before a game step, for a checkpoint that does not say it."""
        return {}

    def _findings(self) -> dict[str, Any]:
        """Return what the first look has found, for a checkpoint."""
        return {}

    def _take_findings(self, saved: Mapping[str, Any]) -> None:
        """Take over what the first look of the run before has found."""

    def _completes(self) -> bool:
        """Return True if turns depend on those before in a step by weights, buffers and the game's state alone."""
        return True

    def _batches_taken(self) -> int:
        """Return how many batches the fit has taken from its loader."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.ready

    # ---- what the class that plays implements -----------------------------------------------------------------------

    def _looks_closer(self) -> bool:
        raise NotImplementedError

    def _live(self) -> dict[str, list[nn.Parameter]]:
        raise NotImplementedError

    def _own_attributes(self) -> set[str]:
        raise NotImplementedError

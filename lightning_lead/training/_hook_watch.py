"""A callback that finds hooks of `LeadMixin` which an override left out, before they cost a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import Callback, Trainer
from lightning_lead.training._saved_game import SavedGame

__all__ = ["HookWatch"]


class HookWatch(Callback):
    """Refuse a module whose override of a hook did not call `super()`.

    Lightning calls a callback's hook before the module's of the same name, so each hook is looked for in the next one.
    """

    def __init__(self) -> None:
        self._saved = False
        self._epochs = 0  # complete when this fit began

    @classmethod
    def unless_in(cls, callbacks: Sequence[Callback]) -> list[Callback]:
        """Return a watch, or nothing where an earlier fit has left one."""
        return [] if any(isinstance(callback, cls) for callback in callbacks) else [cls()]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lightning restores callbacks after the module."""
        if trainer.state.fn == "fit":
            self._require(pl_module, "on_load_checkpoint", "the checkpoint's game was not read")

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Look for the hook before this one."""
        self._require(pl_module, "on_fit_start", "the game has not started")
        self._epochs = trainer.fit_loop.epoch_progress.current.completed

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Look for the hooks before the first batch, and for one of a checkpoint before the next batch."""
        if isinstance(pl_module, SavedGame):
            pl_module.note_generators()
        self._require(pl_module, "on_train_start", "optimizers and schedulers were not checked")
        if self._saved:
            self._require(pl_module, "on_save_checkpoint", "the checkpoint holds no game, and no fit can go on from it")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look for the game step."""
        self._require(
            pl_module,
            "training_step",
            "no game was played; delete the training_step() of before, its losses belong into player_losses()",
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Look for the end of the epoch before."""
        if trainer.fit_loop.epoch_progress.current.completed > self._epochs and any(
            config.interval == "epoch" for config in trainer.lr_scheduler_configs
        ):
            self._require(pl_module, "on_train_epoch_end", "the schedulers did not step")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Remember that the module's own hook comes next."""
        self._saved = trainer.state.fn == "fit"

    def _require(self, pl_module: Any, hook: str, consequence: str) -> None:
        ran = getattr(pl_module, "hooks_run", None)  # a Trainer may go on with a module of another kind
        if ran is not None and hook not in ran:
            owner = next(cls for cls in type(pl_module).__mro__ if hook in vars(cls))
            raise ConfigurationError(
                f"Cannot go on because {owner.__name__}.{hook}() does not call super().{hook}(), so {consequence}"
            )

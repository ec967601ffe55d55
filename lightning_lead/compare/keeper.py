"""Checkpoints of one run of a comparison, from which it goes on when it was stopped."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

__all__ = ["CHECKPOINT", "Keeper"]

CHECKPOINT = "checkpoint.ckpt"
LOOKS = 10
"""Game steps between looks at the clock; on several ranks each look is a small all-reduce."""


class Keeper(Callback):
    """A checkpoint now and then, and no run without anybody to run it for. It stands last: others have had their say.

    Args:
        folder: where the checkpoint goes.
        checkpoints: how many in a run at least, ≥ 1.
        every_minutes: the longest time between two, > 0: a tenth of a long run would be too much to lose.
        parent: the process that waits for this one; the run ends when it is gone. None: nobody waits.

    Example:
        >>> Keeper(Path("."), checkpoints=10).checkpoints
        10
    """

    def __init__(
        self, folder: Path, *, checkpoints: int, every_minutes: float = 10.0, parent: int | None = None
    ) -> None:
        self.folder, self.checkpoints, self.every_minutes, self.parent = folder, checkpoints, every_minutes, parent
        self._saved: int | None = None
        self._saved_at = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The clock starts."""
        self._saved_at = _clock()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Save if it is due."""
        if self.parent is not None and os.getppid() != self.parent:
            sys.exit("the comparison has ended, and this run of it as well")
        every = max(1, int(trainer.max_steps) // self.checkpoints)
        if trainer.global_step % every == 0 or (trainer.global_step % LOOKS == 0 and self._late(trainer, pl_module)):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save the end."""
        if self._saved != trainer.global_step:
            self._save(trainer)

    def _late(self, trainer: Trainer, pl_module: Any) -> bool:
        late = _clock() - self._saved_at >= 60 * self.every_minutes
        if trainer.world_size > 1:  # all ranks save, or none: their clocks may differ
            mine = torch.tensor(int(late), device=pl_module.device)
            late = bool(trainer.strategy.reduce(mine, reduce_op="max"))
        return late

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / f"{CHECKPOINT}.part")
        if trainer.is_global_zero:
            os.replace(self.folder / f"{CHECKPOINT}.part", self.folder / CHECKPOINT)
        self._saved, self._saved_at = trainer.global_step, _clock()


def _clock() -> float:
    return time.monotonic()

"""The log of game steps: losses after every step, details where a log line is due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_lead._lightning import LightningModule, Trainer
from lightning_lead.calculus._terms import OracleStatistics

__all__ = ["GameLog", "is_due"]


def is_due(trainer: Trainer, steps: int) -> bool:
    """Return True if the game step after which there have been so many is logged."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and steps % every == 0


class GameLog:
    """The log of a fit; it remembers the notes that it has passed on."""

    def __init__(self) -> None:
        self._noted: dict[str, float] = {}

    def write(
        self, module: LightningModule, record: Mapping[str, OracleStatistics], notes: Mapping[str, float], skipped: int
    ) -> None:
        """Log losses; where it is due, norms and cosines too; notes where they have changed or it is due."""
        trainer = module.trainer
        due = is_due(trainer, trainer.global_step)
        losses = {f"loss/{name}": stats.loss for name, stats in record.items()}
        details: dict[str, Any] = {}
        for name, stats in record.items():
            if stats.gradient_norm is not None:
                details[f"gradient/{name}"] = stats.gradient_norm
            if stats.cross_norm is not None and stats.cosine is not None:
                details |= {f"cross/{name}": stats.cross_norm, f"cross_cosine/{name}": stats.cosine}
        module.log_dict(losses, on_step=True, on_epoch=False)
        if trainer.progress_bar_callback is not None:
            _show(trainer, losses, due)
        # Lightning keeps an unchanged note, and logging it again takes as long as logging a loss
        changed = {name: value for name, value in notes.items() if due or self._noted.get(name) != value}
        details |= {name: torch.as_tensor(value) for name, value in changed.items()}
        self._noted |= notes
        if skipped:
            details["skipped_turns"] = torch.as_tensor(float(skipped))
        module.log_dict(details, on_step=True, on_epoch=False)


def _show(trainer: Trainer, losses: Mapping[str, Tensor], due: bool) -> None:
    """Pass losses to the progress bar where they are new or due: with `prog_bar` Lightning would read each of them."""
    if losses and (due or not losses.keys() <= trainer.progress_bar_metrics.keys()):
        values = torch.stack([loss.float() for loss in losses.values()]).tolist()
        trainer.progress_bar_metrics.update(zip(losses, values, strict=True))

"""Checks, before the first step, of callbacks that monitor a score which is computed now and then."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import EarlyStopping, ModelCheckpoint, Trainer, rank_zero_warn

__all__ = ["check_monitors"]


def check_monitors(trainer: Trainer, names: Sequence[str], every_n_steps: int | None) -> None:
    """Refuse, or warn of, callbacks that look at scores more often than those are computed.

    Raises a ConfigurationError for an `EarlyStopping` that would fail because it looks before the first score is there.
    """
    if every_n_steps is None:
        if not getattr(trainer, "enable_validation", True) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_warn(
                "GenerativeMetrics will not run in this fit because there is no validation and every_n_steps is None; "
                "pass every_n_steps, or validation data."
            )
        return
    epoch = trainer.num_training_batches
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if getattr(callback, "monitor", None) not in names:
            continue
        if isinstance(callback, ModelCheckpoint):
            saves = getattr(callback, "_every_n_train_steps", 0)
            if saves and saves % every_n_steps:
                rank_zero_warn(
                    f"ModelCheckpoint saves every {saves} game steps by {callback.monitor!r}, which is computed every "
                    f"{every_n_steps}: some checkpoints will be compared by the score of an earlier step. Let "
                    "every_n_train_steps be a multiple of every_n_steps."
                )
        if isinstance(callback, EarlyStopping) and epoch < every_n_steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            step = trainer.global_step
            too_late = (step // every_n_steps + 1) * every_n_steps > (step // epoch + 1) * epoch
            if callback.strict and too_late and callback.monitor not in trainer.callback_metrics:
                raise ConfigurationError(
                    f"Cannot stop early on {callback.monitor!r} because an epoch of {epoch} game steps ends before the "
                    f"first score; use every_n_steps ≤ {epoch}, or EarlyStopping(strict=False) "
                    f"(got every_n_steps={every_n_steps})"
                )
            rank_zero_warn(
                f"EarlyStopping looks at {callback.monitor!r} once per epoch of {epoch} game steps, and it is computed "
                f"every {every_n_steps}: the same score will be looked at several times, and use up the patience."
            )

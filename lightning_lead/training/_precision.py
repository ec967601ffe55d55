"""The demands of fp16 on a game: a loss scale, and optimizers that step along directions without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.amp import GradScaler

from lightning_lead.engine._loss_scale import LossScale

__all__ = ["loss_scale_of", "unscaled"]


def loss_scale_of(trainer: Any) -> LossScale | None:
    """Return a loss scale with the settings of the precision plugin's scaler; in other precisions than fp16 None."""
    if str(trainer.precision) not in ("16-mixed", "16-true"):
        return None
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if (
        scaler is None
    ):  # the loss is in fp16, as weights are, and its derivative by itself is the scale, which has to fit
        return LossScale(init_scale=2.0**15, largest=2.0**15)
    return LossScale.like(scaler) if scaler.is_enabled() else None


@contextmanager
def unscaled(trainer: Any) -> Iterator[None]:
    """Keep the precision plugin from dividing directions by a scale of its own: the oracle has divided them."""
    plugin = trainer.precision_plugin
    scaler = getattr(plugin, "scaler", None)
    if scaler is None:
        yield
        return
    plugin.scaler = GradScaler("cpu", enabled=False)
    try:
        yield
    finally:
        plugin.scaler = scaler

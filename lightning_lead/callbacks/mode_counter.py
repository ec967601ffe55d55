"""Count the modes that a generator of points finds, during a fit."""

from __future__ import annotations

from typing import Any

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import Callback, Trainer
from lightning_lead.data import modes_covered
from lightning_lead.gan._sampling import check_generates, generate
from lightning_lead.gan.ema import find_ema

__all__ = ["ModeCounter"]


class ModeCounter(Callback):
    """Every n game steps, logs `modes`, how many have samples, and `high_quality`, the share of samples near one.

    For data modules with `modes` and `std`, as `GaussiansDataModule`; see `data.modes_covered` for both measures. Every
    rank draws the same samples, from the averaged generator where the Trainer has a `GeneratorEMA`. Both are seen by
    `ModelCheckpoint(monitor="modes", mode="max")`, also right after a run is resumed.

    Args:
        every_n_steps: game steps between counts, ≥ 1.
        num_samples: points per count, ≥ 1.
        at_least: share of the samples that a mode must hold to count, in units of an even share; 0.1 is a tenth of it.
        seed: of the samples' noise.

    Attributes:
        history: a record {"step", "values"} per count.

    Raises:
        ConfigurationError: a setting out of its range; at fit start, a module that cannot be sampled, or a data module
            without modes.

    Example:
        >>> ModeCounter(every_n_steps=100).num_samples
        2000
    """

    def __init__(
        self, *, every_n_steps: int = 250, num_samples: int = 2000, at_least: float = 0.1, seed: int = 0
    ) -> None:
        check_arguments(ModeCounter, locals())
        check_positive(every_n_steps=every_n_steps, num_samples=num_samples)
        if not 0 <= at_least <= 1:
            raise ConfigurationError(f"Cannot use at_least={at_least!r}; pass a share in [0, 1]")
        self.every_n_steps, self.num_samples, self.at_least, self.seed = every_n_steps, num_samples, at_least, seed
        self.history: list[dict[str, Any]] = []

    @property
    def names(self) -> list[str]:
        """The names that are logged."""
        return ["modes", "high_quality"]

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a module that cannot be sampled."""
        check_generates(pl_module, "ModeCounter")

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuse data without modes; forget counts after the step that is resumed."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not (hasattr(data, "modes") and hasattr(data, "std")):
            raise ConfigurationError(
                "Cannot count modes because the data module does not say where they are; use GaussiansDataModule, or "
                f"one with attributes modes (k, 2) and std (got {type(data).__name__})"
            )
        self.history = [record for record in self.history if record["step"] <= trainer.global_step]
        if self.history:  # callbacks that monitor a count must not find it missing until the next one is due
            trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self.history[-1]["values"].items()})

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Count if it is due."""
        step = trainer.global_step
        if step % self.every_n_steps or (self.history and self.history[-1]["step"] == step):
            return
        data, ema = trainer.datamodule, find_ema(trainer)  # type: ignore[attr-defined]
        if ema is not None:
            ema.update_if_due(trainer, pl_module)
        pl_module.sync_buffers()  # running statistics drift apart between ranks
        drawn = generate(pl_module, self.num_samples, seed=self.seed, batch_size=self.num_samples, ema=ema)
        least = max(1, round(self.at_least * self.num_samples / len(data.modes)))
        found = modes_covered(torch.cat(list(drawn)).cpu(), data.modes, std=data.std, at_least=least)
        values = {"modes": float(found.covered), "high_quality": found.high_quality}
        self.history.append({"step": step, "values": values})
        for name, value in values.items():
            # on the host, because Lightning reads what is in the bar after every step
            pl_module.log(name, torch.tensor(value), prog_bar=True, logger=False, on_step=True, on_epoch=False)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)

    def state_dict(self) -> dict[str, Any]:
        """The history, in plain types."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history over."""
        self.history = list(state_dict["history"])

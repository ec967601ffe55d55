"""The learning-rate schedulers of a fit, stepped once per game step or once per epoch, and by nobody else."""

from __future__ import annotations

from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import Trainer

__all__ = ["Schedulers"]


class Schedulers:
    """Step the Trainer's schedulers, and refuse to go on where one was stepped by hand as well."""

    def __init__(self, trainer: Trainer) -> None:
        self._configs = list(trainer.lr_scheduler_configs)
        self._counts = [_count(config) for config in self._configs]

    def step(self, interval: str, count: int) -> None:
        """Step those of an interval, "step" or "epoch", after so many of them."""
        self.check()
        for config in self._configs:
            if config.interval == interval and count % config.frequency == 0:
                config.scheduler.step()  # type: ignore[call-arg]
        self._counts = [_count(config) for config in self._configs]

    def check(self) -> None:
        """Refuse a scheduler that has moved since it was stepped here."""
        for config, before in zip(self._configs, self._counts, strict=True):
            if (now := _count(config)) != before:
                raise ConfigurationError(
                    f"Cannot go on because {type(config.scheduler).__name__} was stepped by hand, and every game step "
                    "or epoch steps it as well; delete that line, or leave the scheduler out of configure_optimizers() "
                    f"(got last_epoch {now} instead of {before})"
                )


def _count(config: Any) -> Any:
    return getattr(config.scheduler, "last_epoch", None)

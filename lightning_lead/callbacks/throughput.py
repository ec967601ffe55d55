"""Throughput: images and game steps per second, and the hours that are left, without a wait in the step.

    images_per_second = images of a game step over all ranks / median time between the starts of two game steps
    hours_to_max_steps = steps that are left · (time since the start of the fit / steps since then)

The median leaves out what happens now and then (scores, checkpoints, the first steps' probes); the mean, by which the
end is foretold, has it in. On a CUDA device time is that of the device, between events that it passes on its way; the
host waits for it only where a number is wanted, every `every_n_steps`.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any, final

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import Callback, Trainer, extract_batch_size

__all__ = ["Throughput"]


@final
class Throughput(Callback):
    """Logs `images_per_second`, `game_steps_per_second` and, where the Trainer has max_steps, `hours_to_max_steps`.

    Images are those that one game step takes from the loader, over all ranks, as `GeneratorEMA` counts them.
    Lightning's own `ThroughputMonitor` waits for the device after every step and counts on rank 0 alone.

    Args:
        every_n_steps: game steps between readings, ≥ 2, or None for the Trainer's `log_every_n_steps`, if that is ≥ 2.

    Raises:
        ConfigurationError: fewer than 2 steps, between which there is no time to take.

    Example:
        >>> from lightning_lead import GaussiansDataModule, LeadGANModule
        >>> from lightning_lead.networks import MLPDiscriminator, MLPGenerator
        >>> gan = LeadGANModule(MLPGenerator(latent_dim=2, width=4), MLPDiscriminator(width=4))
        >>> speed = Throughput(every_n_steps=4)
        >>> trainer = Trainer(
        ...     max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        ...     enable_model_summary=False, callbacks=[speed],
        ... )
        >>> trainer.fit(gan, GaussiansDataModule(num_points=64, batch_size=32))
        >>> speed.latest["images_per_second"] > 32 * 0.01, speed.latest["hours_to_max_steps"]
        (True, 0.0)
    """

    def __init__(self, *, every_n_steps: int | None = None) -> None:
        check_arguments(Throughput, locals())
        check_positive(every_n_steps=every_n_steps)
        if every_n_steps == 1:
            raise ConfigurationError(
                "Cannot take the time between the starts of steps every step; use every_n_steps ≥ 2"
            )
        self.every_n_steps = every_n_steps
        self.latest: dict[str, float] = {}
        """What was logged last, under the same names."""
        self._starts: list[Any] = []  # of game steps since the last reading
        self._images = 0
        self._begin, self._first_step = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The fit begins."""
        self._starts, self.latest = [], {}
        self._begin, self._first_step = time.perf_counter(), trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A game step begins: a time stamp, or an event on the device's way; nothing is waited for."""
        counted = getattr(pl_module, "images_per_step", None)
        if counted is None:
            reals = pl_module.unpack_batch(batch)[0] if hasattr(pl_module, "unpack_batch") else batch
            counted = extract_batch_size(reals)
        self._images = int(counted)
        self._starts.append(_Mark(pl_module.device))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Read and log, if it is time."""
        every: int = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % max(2, every) or len(self._starts) < 2:
            return
        marks, self._starts = self._starts, self._starts[-1:]
        marks[-1].wait()
        median = statistics.median(b.since(a) for a, b in itertools.pairwise(marks))
        images = self._images
        # a module that counts itself, or a rank alone, counts them all
        if trainer.world_size > 1 and getattr(pl_module, "images_per_step", None) is None:
            images = int(trainer.strategy.reduce(torch.tensor(images, device=pl_module.device), reduce_op="sum"))
        self.latest = {"images_per_second": images / median, "game_steps_per_second": 1 / median}
        if trainer.max_steps > 0:  # -1: without end
            made, left = trainer.global_step - self._first_step, max(0, trainer.max_steps - trainer.global_step)
            self.latest["hours_to_max_steps"] = left * (time.perf_counter() - self._begin) / made / 3600
        for name, value in self.latest.items():
            pl_module.log(name, torch.tensor(value), on_step=True, on_epoch=False)


class _Mark:
    """A moment: of the host's clock, or an event in the queue of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = None
        self._seconds = 0.0
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(device))
        else:
            self._seconds = time.perf_counter()

    def wait(self) -> None:
        """Until the device has come by."""
        if self._event is not None:
            self._event.synchronize()

    def since(self, earlier: _Mark) -> float:
        """Seconds, > 0."""
        if self._event is not None:
            return max(1e-9, float(earlier._event.elapsed_time(self._event)) / 1000)
        return max(1e-9, self._seconds - earlier._seconds)

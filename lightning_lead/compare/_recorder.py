"""The cost of a game step in a comparison: seconds, FLOPs, and evaluations of derivatives.

FLOPs are counted on a few game steps, spread over the run, a whole period of the rule each time: an iterative solve
costs more or less as training goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch

from lightning_lead._lightning import Callback, Trainer
from lightning_lead.compare._flops import counted_flops

__all__ = ["Recorder"]

FIRST_COUNTED = 3  # game steps before FLOPs are counted: by then every memory is there
COUNTS = 8  # about how many times, in a long run


class Recorder(Callback):
    """Seconds, FLOPs and evaluations of game steps. It stands first, so that other callbacks are not on its clock.

    Neither are steps whose FLOPs are counted, which takes time, nor the first one of a process, which probes the game.
    """

    def __init__(self) -> None:
        self.seconds, self.timed_steps, self.steps = 0.0, 0, 0
        self.flops: list[float] = []
        self.evaluations: Counter[str] = Counter()
        self._on_clock = False

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Count the FLOPs of a few steps, from inside: hooks and the loading of batches are not part of a game step."""
        step, period = pl_module.training_step, pl_module.game.rule.period

        def counted_step(*batch: Any) -> Any:
            if not self._counts(trainer, period):
                return step(*batch)
            self._on_clock = False
            self.flops.append(counted_flops(lambda: step(*batch)))
            return None

        pl_module.training_step = counted_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Start the clock."""
        self._start = _now(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Stop the clock."""
        if self._on_clock:
            self.seconds += _now(pl_module) - self._start
            self.timed_steps += 1
        self._on_clock = True
        self.steps += 1
        self.evaluations += pl_module.last_step.evaluations

    def state_dict(self) -> dict[str, Any]:
        """Return all counts."""
        counts = {"seconds": self.seconds, "timed_steps": self.timed_steps, "steps": self.steps, "flops": self.flops}
        return counts | {"evaluations": dict(self.evaluations)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts over, also those of a version without `timed_steps`."""
        self.seconds, self.timed_steps = state_dict["seconds"], state_dict.get("timed_steps", 0)
        self.steps, self.flops = state_dict["steps"], list(state_dict["flops"])
        self.evaluations = Counter(state_dict["evaluations"])

    def _counts(self, trainer: Trainer, period: int) -> bool:
        """Return True in the first period of each eighth of the run, or of each four periods in a short run."""
        since = trainer.global_step - FIRST_COUNTED
        phase = since % max(4 * period, int(trainer.max_steps) // COUNTS)
        if since < 0 or phase >= period:
            return False
        # steps that are logged also work out norms: among few counted steps one of these would weigh too much
        every = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
        first = trainer.global_step - phase
        return every <= 4 * period or (first + period) // every == first // every


def _now(pl_module: Any) -> float:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)  # a step ends when the device has done it
    return time.perf_counter()

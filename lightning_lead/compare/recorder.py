"""What a game step of a comparison costs: seconds, FLOPs, and what the game asks its oracles for.

FLOPs are counted on a few game steps, spread over the run, a whole period of the rule each time: an iterative solve
costs more or less as training goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from lightning_lead.compare.flops import counted_flops

__all__ = ["Recorder"]

FIRST_COUNTED = 3  # game steps before FLOPs are counted: by then every memory is there
COUNTS = 8  # about how many times, in a long run


class Recorder(Callback):
    """Seconds, FLOPs and evaluations of game steps. It stands first, so that other callbacks are not on its clock.

    Neither are steps whose FLOPs are counted, which takes time, nor the first one of a process, which probes the game.

    Example:
        >>> Recorder().steps
        0
    """

    def __init__(self) -> None:
        self.seconds, self.timed_steps, self.steps = 0.0, 0, 0
        self.flops: list[float] = []
        self._on_clock = False
        self.evaluations: Counter[str] = Counter()

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Count what the game asks its oracles for, and the FLOPs of a few steps."""
        play_turn, step = pl_module.game.play_turn, pl_module.training_step
        period = pl_module.game.rule.period

        def counted_turn(oracle: Any, *arguments: Any) -> Any:
            played = play_turn(oracle, *arguments)
            self.evaluations += oracle.evaluations
            return played

        def counted_step(*batch: Any) -> Any:
            if not self._counts(trainer, period):
                return step(*batch)
            self._on_clock = False
            self.flops.append(counted_flops(lambda: step(*batch)))
            return None

        pl_module.game.play_turn, pl_module.training_step = counted_turn, counted_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """The clock starts."""
        self._start = _now(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """The clock stops."""
        if self._on_clock:
            self.seconds += _now(pl_module) - self._start
            self.timed_steps += 1
        self._on_clock = True
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """All counts."""
        counts = {"seconds": self.seconds, "timed_steps": self.timed_steps, "steps": self.steps, "flops": self.flops}
        return counts | {"evaluations": dict(self.evaluations)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts over."""
        self.seconds, self.timed_steps = state_dict["seconds"], state_dict.get("timed_steps", 0)
        self.steps, self.flops = state_dict["steps"], list(state_dict["flops"])
        self.evaluations = Counter(state_dict["evaluations"])

    def _counts(self, trainer: Trainer, period: int) -> bool:
        since = trainer.global_step - FIRST_COUNTED
        place = since % max(4 * period, int(trainer.max_steps) // COUNTS)
        if since < 0 or place >= period:
            return False
        # steps that are logged also work out norms: among few counted steps one of these would weigh too much
        every = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
        first = trainer.global_step - place
        return every <= 4 * period or (first + period) // every == first // every


def _now(pl_module: Any) -> float:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)  # a step ends when the device has done it
    return time.perf_counter()

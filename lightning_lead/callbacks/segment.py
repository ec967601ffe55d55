"""SegmentCheckpoint: a long run in short segments, each ended by the clock or a signal, each going on from the last.

A segment ends after a whole game step, with a checkpoint: resumed, it is the uninterrupted run, bit for bit. The same
command starts the first segment and every later one:

    lightning-lead fit --config recipe.yaml --ckpt_path last

What Lightning 2.6 has for this does not serve a game: `Timer`, and so `Trainer(max_time=...)`, counts the time of
earlier segments as its own after a resume; `ModelCheckpoint(train_time_interval=...)` saves nothing under manual
optimization; and its SLURM requeue saves inside of the signal handler, between the two players' updates.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead._files import replacing
from lightning_lead.callbacks.ema import find_ema
from lightning_lead.callbacks.generator_file import check_dtype, save_generator

__all__ = ["SegmentCheckpoint"]

GO_ON, SAVE, END = 0, 1, 2


@final
class SegmentCheckpoint(ModelCheckpoint):
    """Writes last.ckpt every few minutes and at the end of the segment, and segment.json, which says how it ended.

    It is a `ModelCheckpoint`, so that `ckpt_path="last"` finds its file; others may stand beside it. A segment that is
    killed while it saves leaves the checkpoint before: with `CompactCheckpointIO` always, with Lightning's own writer
    where $TMPDIR is on the file system of `dirpath`.

    Args:
        dirpath: folder of the files.
        minutes: length of a segment, > 0, counted from the start of the fit; or None: until max_steps or a signal.
            Leave time to write the checkpoint, and for a validation, which Lightning runs when a fit with validation
            data is ended.
        every_minutes: time between checkpoints, > 0, or None for the end alone.
        check_every_n_steps: game steps between looks at the clock, ≥ 1; on several ranks each look is one small
            all-reduce, so that all ranks stop after the same step.
        signals: names of signals that end the segment, as "SIGUSR1" and "SIGTERM"; a rank that gets one tells the
            others.
        generator: None, or "float32", "float16", "bfloat16": write generator.pt beside each checkpoint, the averaged
            generator where the Trainer has a `GeneratorEMA`; see `save_generator`. Where that fails it warns.

    Raises:
        ConfigurationError: a setting out of its range, or a signal of an unknown name.

    Example:
        >>> SegmentCheckpoint("runs/segments", minutes=10, signals=["SIGUSR1"]).last
        PosixPath('runs/segments/last.ckpt')
    """

    def __init__(
        self,
        dirpath: str,
        *,
        minutes: float | None = None,
        every_minutes: float | None = 5.0,
        check_every_n_steps: int = 10,
        signals: Sequence[str] = ("SIGUSR1",),
        generator: str | None = None,
    ) -> None:
        super().__init__(dirpath=dirpath, save_top_k=0, save_last=True, enable_version_counter=False)
        for name, value in (("minutes", minutes), ("every_minutes", every_minutes)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigurationError(f"Cannot end a segment by {name}={value!r} because it must be finite and > 0")
        check_positive(check_every_n_steps=check_every_n_steps)
        check_dtype(generator)
        if unknown := [name for name in signals if name not in signal.Signals.__members__]:
            raise ConfigurationError(
                f"Cannot wait for {unknown} because there are no such signals; name one, as SIGUSR1"
            )
        self.folder, self.last = Path(dirpath), Path(dirpath) / "last.ckpt"
        self.minutes, self.every_minutes, self.generator = minutes, every_minutes, generator
        self.check_every_n_steps, self.signals = check_every_n_steps, tuple(signals)
        self._begin = self._saved_at = 0.0
        self._first_step = self._saved_step = 0
        self._asked = ""
        self._handlers: dict[int, Any] = {}

    # ---- when -------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The segment's clock starts."""
        self._begin = self._saved_at = _clock()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take the signals over, from Lightning's handlers too, which would save in the middle of a game step."""
        super().on_train_start(trainer, pl_module)
        self._first_step = self._saved_step = trainer.global_step
        self._asked = ""
        if threading.current_thread() is threading.main_thread():
            for name in self.signals:
                number = signal.Signals[name]
                self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """After a whole game step: look at the clock if it is time to, save, end."""
        step = trainer.global_step
        if 0 < trainer.max_steps <= step:
            self._save(trainer, pl_module, "max_steps")
        elif step % self.check_every_n_steps == 0 and step != self._saved_step and not trainer.sanity_checking:
            verdict = self._verdict()
            if trainer.world_size > 1:
                mine = torch.tensor(verdict, device=pl_module.device)
                verdict = int(trainer.strategy.reduce(mine, reduce_op="max"))
            if verdict != GO_ON:
                self._save(trainer, pl_module, "" if verdict == SAVE else self._asked or "minutes")
            trainer.should_stop = trainer.should_stop or verdict == END

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Nothing: an epoch is no occasion."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Nothing either."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save what somebody else has ended, as by max_epochs."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, pl_module, "the trainer")

    def state_dict(self) -> dict[str, Any]:
        """Nothing that a later segment, perhaps in another folder, would want to know."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Give the signals back."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)

    def _verdict(self) -> int:
        now = _clock()
        if self._asked or (self.minutes is not None and now - self._begin >= 60 * self.minutes):
            return END
        return SAVE if self.every_minutes is not None and now - self._saved_at >= 60 * self.every_minutes else GO_ON

    def _on_signal(self, number: int, frame: Any) -> None:
        self._asked = signal.Signals(number).name  # no more than that: a game step is under way

    # ---- what -------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, pl_module: Any, ended_by: str) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.last_model_path = str(self.last)
        trainer.save_checkpoint(self.last, weights_only=False)  # on all ranks
        self._saved_step, self._saved_at = trainer.global_step, _clock()
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, str(self.last)
        if not trainer.is_global_zero:
            return
        if self.generator is not None:
            self._save_generator(trainer, pl_module, self.generator)
        record = {
            "global_step": trainer.global_step,
            "max_steps": trainer.max_steps,
            "finished": 0 < trainer.max_steps <= trainer.global_step,
            "ended_by": ended_by or None,
            "steps_of_segment": trainer.global_step - self._first_step,
            "seconds_of_segment": round(_clock() - self._begin, 3),
        }
        with replacing(self.folder / "segment.json") as draft:
            draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if ended_by:
            rank_zero_info(f"Segment ended by {ended_by} after game step {trainer.global_step}: {self.last}")

    def _save_generator(self, trainer: Trainer, pl_module: Any, dtype: str) -> None:
        """Beside the checkpoint, from which it can be made again: no reason to end a run."""
        file, step = self.folder / "generator.pt", trainer.global_step
        try:
            save_generator(file, pl_module, ema=find_ema(trainer), dtype=dtype, global_step=step)
        except (OSError, RuntimeError) as error:
            rank_zero_warn(
                f"{file} could not be written after game step {step}, and the run goes on; the checkpoint beside it "
                f"holds the generator as well (got {type(error).__name__}: {error})"
            )


def _clock() -> float:
    return time.monotonic()

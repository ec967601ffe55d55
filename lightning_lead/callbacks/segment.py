"""SegmentCheckpoint: a long run in short segments, each ended by the clock or a signal, each going on from the last.

A segment ends after a whole game step, with a checkpoint: resumed, it is the uninterrupted run, bit for bit. The same
command starts the first segment and every later one:

    lightning-lead fit --config recipe.yaml --ckpt_path last

What Lightning 2.6 has for this does not serve a game: `Timer`, and so `Trainer(max_time=...)`, counts the time of
earlier segments as its own after a resume; `ModelCheckpoint(train_time_interval=...)` saves nothing under manual
optimization; and its SLURM requeue saves inside of the signal handler, between the two players' updates.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead._files import set_aside, write_json
from lightning_lead._lightning import ModelCheckpoint, Trainer, rank_zero_info, rank_zero_warn
from lightning_lead.callbacks.generator_file import check_dtype, save_generator
from lightning_lead.checkpoints._whole import use_whole_files
from lightning_lead.gan.ema import find_ema

__all__ = ["SegmentCheckpoint"]

GO_ON, SAVE, END = 0, 1, 2


@final
class SegmentCheckpoint(ModelCheckpoint):
    """Writes last.ckpt every few minutes and at the end of the segment, and segment.json, which says how it ended.

    It is a `ModelCheckpoint`, so that `ckpt_path="last"` finds its file; others may stand beside it. A segment that is
    killed while it saves leaves the checkpoint before: Lightning's writer, which may leave half a file, is replaced by
    one that writes beside the file and renames. Another `CheckpointIO` among the Trainer's plugins stays. A run that
    does not go on from the folder's checkpoint moves it into a folder "earlier.1" there at its own first save.

    Args:
        dirpath: folder of the files.
        minutes: length of a segment, > 0, counted from the start of the fit; or None: until max_steps or a signal.
            Leave time to write the checkpoint, and for a validation, which Lightning runs when a fit with validation
            data is ended.
        every_minutes: time between checkpoints, > 0, or None for the end alone.
        every_n_steps: game steps between further checkpoints, ≥ 1, or None for none.
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
        every_n_steps: int | None = None,
        check_every_n_steps: int = 10,
        signals: Sequence[str] = ("SIGUSR1",),
        generator: str | None = None,
    ) -> None:
        check_arguments(SegmentCheckpoint, locals())
        super().__init__(dirpath=dirpath, save_top_k=0, save_last=True, enable_version_counter=False)
        for name, value in (("minutes", minutes), ("every_minutes", every_minutes)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigurationError(f"Cannot end a segment by {name}={value!r} because it must be finite and > 0")
        check_positive(check_every_n_steps=check_every_n_steps, every_n_steps=every_n_steps)
        check_dtype(generator)
        if unknown := [name for name in signals if name not in signal.Signals.__members__]:
            raise ConfigurationError(
                f"Cannot wait for {unknown} because there are no such signals; name one, as SIGUSR1"
            )
        self.folder, self.generator = Path(dirpath), generator
        self.minutes, self.every_minutes, self.every_n_steps = minutes, every_minutes, every_n_steps
        self.check_every_n_steps, self.signals = check_every_n_steps, tuple(signals)
        self.goes_on = False  # True where another callback knows of a checkpoint elsewhere that it is this run's
        self._begin = self._saved_at = 0.0
        self._first_step = self._saved_step = 0
        self._asked = ""
        self._handlers: dict[int, Any] = {}

    @property
    def last(self) -> Path:
        """The checkpoint."""
        return self.folder / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"

    # ---- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Have local checkpoints written whole or not at all; see `checkpoints._whole`."""
        super().setup(trainer, pl_module, stage)
        use_whole_files(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the segment's clock."""
        self._begin = self._saved_at = _clock()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take the signals over, also from Lightning's handlers, which would save in the middle of a game step."""
        super().on_train_start(trainer, pl_module)
        self._first_step = self._saved_step = trainer.global_step
        self._asked = ""
        if threading.current_thread() is threading.main_thread():
            for name in self.signals:
                number = signal.Signals[name]
                self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """After a whole game step: save if it is time to, end if it is time to."""
        step = trainer.global_step
        if 0 < trainer.max_steps <= step:
            self._save(trainer, pl_module, "max_steps")
        elif step != self._saved_step:
            verdict = SAVE if self.every_n_steps is not None and step % self.every_n_steps == 0 else GO_ON
            if step % self.check_every_n_steps == 0:
                verdict = max(verdict, self._verdict_of_all(trainer, pl_module))
            if verdict != GO_ON:
                self._save(trainer, pl_module, "" if verdict == SAVE else self._asked or "minutes")
            trainer.should_stop = trainer.should_stop or verdict == END

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Disable `ModelCheckpoint`'s save at the end of an epoch."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Disable `ModelCheckpoint`'s save after validation."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save where something else ended the fit, as max_epochs does."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, pl_module, "the trainer")

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a later segment, perhaps in another folder, begins anew."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore what an earlier version saved."""

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Give the signals back."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)

    def _verdict_of_all(self, trainer: Trainer, pl_module: Any) -> int:
        """By the clock and the signals of all ranks, so that all do the same after the same step."""
        now, verdict = _clock(), GO_ON
        if self._asked or (self.minutes is not None and now - self._begin >= 60 * self.minutes):
            verdict = END
        elif self.every_minutes is not None and now - self._saved_at >= 60 * self.every_minutes:
            verdict = SAVE
        if trainer.world_size > 1:
            mine = torch.tensor(verdict, device=pl_module.device)
            verdict = int(trainer.strategy.reduce(mine, reduce_op="max"))
        return verdict

    def _on_signal(self, number: int, frame: Any) -> None:
        self._asked = signal.Signals(number).name  # no more than that: a game step is under way

    # ---- what -------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, pl_module: Any, ended_by: str) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._spare_earlier(trainer)
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
        write_json(self.folder / "segment.json", record)
        if ended_by:
            rank_zero_info(f"Segment ended by {ended_by} after game step {trainer.global_step}: {self.last}")

    def _spare_earlier(self, trainer: Trainer) -> None:
        """Before the first save of a run that goes on from nothing here: move the files of another one aside."""
        if self._last_checkpoint_saved or self.goes_on or not trainer.is_global_zero or not self.last.exists():
            return
        if trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve().parent == self.folder.resolve():
            return
        names = (self.last.name, "segment.json", "generator.pt")
        aside = set_aside(path for name in names if (path := self.folder / name).exists())
        rank_zero_info(f"{self.folder} holds the checkpoint of an earlier run, which is now in {aside}")

    def _save_generator(self, trainer: Trainer, pl_module: Any, dtype: str) -> None:
        """Warn where it fails: the checkpoint holds the generator as well, so the run may go on."""
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

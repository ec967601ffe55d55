"""One run of a comparison, in a process of its own: fit, measure, and write `result.json`.

python -m lightning_lead.compare.worker FOLDER FINGERPRINT ARGUMENTS-OF-FIT...

A checkpoint is written now and then (`keeper`); a run that was stopped goes on from it. FLOPs are counted on a few game
steps, spread over the run, a whole period of the rule each time: an iterative solve costs more or less as training goes
on.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

import lightning_lead
from lightning_lead._errors import DivergenceError
from lightning_lead.cli import main as command_line
from lightning_lead.compare.flops import counted_flops
from lightning_lead.compare.keeper import CHECKPOINT, Keeper

__all__ = ["CHECKPOINT", "Recorder", "run", "write_json"]

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


def run(
    folder: Path, fingerprint: str, arguments: list[str], *, checkpoints: int = 10, parent: int | None = None
) -> dict[str, Any]:
    """Fit, from the checkpoint in the folder if there is one, and write the result.

    Args:
        folder: for the log, the checkpoint and the result.
        fingerprint: goes into the result.
        arguments: of `lightning-lead fit`; and --every=N, game steps between scores.
        checkpoints: how many in a run at least, ≥ 1; see `Keeper`.
        parent: see `Keeper`.

    Returns:
        What `result.json` says.

    Raises:
        DivergenceError: the last score is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = [int(a.removeprefix("--every=")) for a in arguments if a.startswith("--every=")]
    arguments = [a for a in arguments if not a.startswith("--every=")]
    arguments = [*arguments, f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    built = command_line([*arguments, "--trainer.enable_model_summary=false", "--trainer.logger=false"], run=False)
    trainer, model = built.trainer, built.model
    recorder, keeper = Recorder(), Keeper(folder, checkpoints=checkpoints, parent=parent)
    # the recipe's own checkpoints and pictures would land in a folder that all runs share
    kept = [c for c in trainer.callbacks if not isinstance(c, (ModelCheckpoint, lightning_lead.SampleGrid))]
    for scores in (c for c in kept if every and hasattr(c, "history")):
        scores.every_n_steps = every[-1]
    trainer.callbacks = [recorder, *kept, keeper]
    checkpoint = folder / CHECKPOINT
    trainer.fit(model, built.datamodule, ckpt_path=str(checkpoint) if checkpoint.is_file() else None)
    history = [
        {"step": record["step"], "values": record["values"]}
        for callback in kept
        for record in getattr(callback, "history", [])
    ]
    if not history:  # a recipe with scores of its own kind: what they were at the end
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        history = [{"step": int(trainer.global_step), "values": values}] if values else []
    for name, value in [*history[-1]["values"].items()][:1] if history else []:
        if not math.isfinite(value):
            raise DivergenceError(
                f"Cannot give a score because {name} is {value} at step {history[-1]['step']}: the game has diverged; "
                "lower the learning rate"
            )
    steps = max(1, recorder.steps)
    result = {
        "fingerprint": fingerprint,
        "history": history,
        "steps": int(trainer.global_step),
        "seconds": recorder.seconds,
        "timed_steps": recorder.timed_steps,
        "flops_per_step": sum(recorder.flops) / max(1, len(recorder.flops)),
        "evaluations_per_step": {key: value / steps for key, value in recorder.evaluations.items()},
        "skipped_turns": model.game.skipped,
        "versions": {
            "lightning-lead": lightning_lead.__version__,
            "torch": str(torch.__version__),
            "pytorch-lightning": version("pytorch-lightning"),
        },
    }
    if trainer.is_global_zero:
        write_json(folder / "result.json", result)
    return result


def write_json(path: Path, value: Any) -> None:
    """Write all of it or nothing.

    Args:
        path: of the file.
        value: of plain types.
    """
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:], parent=os.getppid())

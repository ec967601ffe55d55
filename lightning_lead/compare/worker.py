"""One run of a comparison, in a process of its own: fit, measure, and write `result.json`.

python -m lightning_lead.compare.worker FOLDER FINGERPRINT ARGUMENTS-OF-FIT...

A checkpoint is written now and then; a run that was stopped goes on from it.
"""

from __future__ import annotations

import json
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
from lightning_lead.cli import main as command_line
from lightning_lead.compare.flops import counted_flops

__all__ = ["Recorder", "run", "write_json"]

CHECKPOINT = "checkpoint.ckpt"
FIRST_COUNTED = 3  # game steps before FLOPs are counted: by then every memory is there


class Recorder(Callback):
    """Seconds, FLOPs and evaluations of game steps, and a checkpoint now and then.

    Args:
        folder: where the checkpoint goes.
        checkpoints: how many in a run, ≥ 1.

    Example:
        >>> Recorder(Path("."), checkpoints=10).steps
        0
    """

    def __init__(self, folder: Path, *, checkpoints: int) -> None:
        self.folder, self.checkpoints = folder, checkpoints
        self.seconds, self.steps = 0.0, 0
        self.flops: list[float] = []
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
            if not FIRST_COUNTED <= trainer.global_step < FIRST_COUNTED + period:
                return step(*batch)
            self.flops.append(counted_flops(lambda: step(*batch)))
            return None

        pl_module.game.play_turn, pl_module.training_step = counted_turn, counted_step

    def on_train_batch_start(self, *_: Any) -> None:
        """The clock starts."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """The clock stops; other callbacks and this checkpoint are not counted."""
        self.seconds += time.perf_counter() - self._start
        self.steps += 1
        every = max(1, int(trainer.max_steps) // self.checkpoints)
        if trainer.global_step % every == 0:
            trainer.save_checkpoint(self.folder / f"{CHECKPOINT}.part")
            if trainer.is_global_zero:
                os.replace(self.folder / f"{CHECKPOINT}.part", self.folder / CHECKPOINT)

    def state_dict(self) -> dict[str, Any]:
        """All counts."""
        counts = {"seconds": self.seconds, "steps": self.steps, "flops": self.flops}
        return counts | {"evaluations": dict(self.evaluations)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts over."""
        self.seconds, self.steps = state_dict["seconds"], state_dict["steps"]
        self.flops, self.evaluations = list(state_dict["flops"]), Counter(state_dict["evaluations"])


def run(folder: Path, fingerprint: str, arguments: list[str], *, checkpoints: int = 10) -> dict[str, Any]:
    """Fit, from the checkpoint in the folder if there is one, and write the result.

    Args:
        folder: for the log, the checkpoint and the result.
        fingerprint: goes into the result.
        arguments: of `lightning-lead fit`; and --every=N, game steps between scores.
        checkpoints: how many in a run, ≥ 1.

    Returns:
        What `result.json` says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = [int(a.removeprefix("--every=")) for a in arguments if a.startswith("--every=")]
    arguments = [a for a in arguments if not a.startswith("--every=")]
    arguments = [*arguments, f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    built = command_line([*arguments, "--trainer.enable_model_summary=false", "--trainer.logger=false"], run=False)
    trainer, model = built.trainer, built.model
    recorder = Recorder(folder, checkpoints=checkpoints)
    # the recipe's own checkpoints and pictures would land in a folder that all runs share
    kept = [c for c in trainer.callbacks if not isinstance(c, (ModelCheckpoint, lightning_lead.SampleGrid))]
    for scores in (c for c in kept if every and hasattr(c, "history")):
        scores.every_n_steps = every[-1]
    trainer.callbacks = [*kept, recorder]
    checkpoint = folder / CHECKPOINT
    trainer.fit(model, built.datamodule, ckpt_path=str(checkpoint) if checkpoint.is_file() else None)
    history = [
        {"step": record["step"], "values": record["values"]}
        for callback in kept
        for record in getattr(callback, "history", [])
    ]
    steps = max(1, recorder.steps)
    result = {
        "fingerprint": fingerprint,
        "history": history,
        "steps": int(trainer.global_step),
        "seconds": recorder.seconds,
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
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])

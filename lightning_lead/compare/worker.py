"""One run of a comparison, in a process of its own: fit, measure, and write `result.json`.

A checkpoint is written now and then by `SegmentCheckpoint`; a run that was stopped goes on from it. What a game step
costs is counted on the way (`recorder`).
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from lightning_lead import __version__
from lightning_lead._errors import BusyFolderError, ConfigurationError, DivergenceError
from lightning_lead._files import held, write_json
from lightning_lead._lightning import Callback, ModelCheckpoint, lightning_version
from lightning_lead.callbacks import GenerativeMetrics, SampleGrid, SegmentCheckpoint
from lightning_lead.compare._processes import BUSY
from lightning_lead.compare._recorder import Recorder
from lightning_lead.evaluate import evaluate_checkpoint
from lightning_lead.recipe import QUIET, build

__all__ = ["CHECKPOINT", "main", "run"]

CHECKPOINT = "checkpoint.ckpt"


def run(folder: Path, fingerprint: str, arguments: list[str], *, checkpoints: int = 10) -> dict[str, Any]:
    """Fit, from the checkpoint in the folder if there is one, and return what is written to `result.json`.

    Arguments are those of `lightning-lead fit`; `--every=N`, game steps between scores; and `--final_samples=N`,
    samples of one more score of the last checkpoint, by the settings of the recipe's `GenerativeMetrics`. `checkpoints`
    is how many there are in a run at least, in a long run one every ten minutes. A last score that is not finite is a
    DivergenceError, and a folder that another process holds a BusyFolderError.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":  # on this machine, the others are started by the first
        with held(folder, purpose="run in"):
            return _run(folder, fingerprint, arguments, checkpoints)
    return _run(folder, fingerprint, arguments, checkpoints)


def main(arguments: list[str]) -> None:
    """Run as the command line says, in a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        run(Path(arguments[0]), arguments[1], arguments[2:])
    except BusyFolderError as error:
        print(error, file=sys.stderr)
        sys.exit(BUSY)


def _run(folder: Path, fingerprint: str, arguments: list[str], checkpoints: int) -> dict[str, Any]:
    arguments, every = _taken_out("--every=", arguments)
    arguments, samples = _taken_out("--final_samples=", arguments)
    arguments = [*arguments, f"--trainer.default_root_dir={folder}", *QUIET]
    path = folder / "result.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if samples is None or result.get("fingerprint") != fingerprint:  # else the fit is over, and its last score missing
        result = _fit(folder, fingerprint, arguments, every, samples, checkpoints=checkpoints)
    if samples is not None and (record := _final(folder, arguments, samples)) is not None:
        result["final"] = record
        write_json(path, result)
    return result


def _taken_out(name: str, arguments: list[str]) -> tuple[list[str], int | None]:
    found = [int(argument.removeprefix(name)) for argument in arguments if argument.startswith(name)]
    return [argument for argument in arguments if not argument.startswith(name)], found[-1] if found else None


def _final(folder: Path, arguments: list[str], samples: int) -> dict[str, Any] | None:
    """Score the last checkpoint; None on other ranks than 0."""
    (config, *overrides) = sorted(arguments, key=lambda argument: not argument.startswith("--config="))
    found = evaluate_checkpoint(
        config.removeprefix("--config="), folder / CHECKPOINT, overrides=overrides, num_samples=samples
    ).record
    if found is not None:
        _check_finite(found)
    return found


def _check_finite(record: dict[str, Any]) -> None:
    name, value = next(iter(record["values"].items()), ("none", 0.0))  # the first score is the one of the table
    if not math.isfinite(value):
        raise DivergenceError(
            f"Cannot give a score because {name} is {value} at step {record['step']}: the game has diverged; lower the "
            "learning rate"
        )


def _fit(
    folder: Path,
    fingerprint: str,
    arguments: list[str],
    every: int | None,
    samples: int | None,
    *,
    checkpoints: int,
) -> dict[str, Any]:
    """Return the result without a last score, and write it, so that a fit is not lost with that score."""
    built = build(arguments)
    trainer: Any = built.trainer  # whose callbacks Lightning does not declare
    recorder = Recorder()
    saver = SegmentCheckpoint(
        str(folder),
        every_n_steps=max(1, int(trainer.max_steps) // checkpoints),
        every_minutes=10.0,  # a tenth of a long run would be too much to lose
        signals=(),
    )
    saver.CHECKPOINT_NAME_LAST = Path(CHECKPOINT).stem
    # the recipe's own checkpoints and pictures would land in a folder that all runs share
    kept = [c for c in trainer.callbacks if not isinstance(c, (ModelCheckpoint, SampleGrid))]
    for scores in (c for c in kept if every is not None and hasattr(c, "history")):
        scores.every_n_steps = every
    if samples is not None:
        _check_samples(kept, samples)
    # the saver stands last: a checkpoint holds what the other callbacks know after its game step
    trainer.callbacks = [recorder, *kept, saver]
    checkpoint = folder / CHECKPOINT
    trainer.fit(built.model, built.datamodule, ckpt_path=str(checkpoint) if checkpoint.is_file() else None)
    records = [record for callback in kept for record in getattr(callback, "history", [])]
    history = [{"step": record["step"], "values": record["values"]} for record in records]
    if not history:  # a recipe with scores of its own kind: what they were at the end
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        history = [{"step": int(trainer.global_step), "values": values}] if values else []
    if history:
        _check_finite(history[-1])
    steps = max(1, recorder.steps)
    result = {
        "fingerprint": fingerprint,
        "history": history,
        "protocol": records[-1].get("protocol") if records else None,
        "steps": int(trainer.global_step),
        "seconds": recorder.seconds,
        "timed_steps": recorder.timed_steps,
        "flops_per_step": sum(recorder.flops) / max(1, len(recorder.flops)),
        "evaluations_per_step": {key: value / steps for key, value in recorder.evaluations.items()},
        "skipped_turns": built.model.game.skipped,
        "versions": {
            "lightning-lead": __version__,
            "torch": str(torch.__version__),
            "pytorch-lightning": lightning_version,
        },
    }
    if trainer.is_global_zero:
        write_json(folder / "result.json", result)
    return result


def _check_samples(callbacks: list[Callback], samples: int) -> None:
    scored = [callback.scorer for callback in callbacks if isinstance(callback, GenerativeMetrics)]
    if not scored:
        raise ConfigurationError(
            "Cannot take a last score because the recipe has no GenerativeMetrics; add one, or leave out "
            f"--final_samples (got {samples})"
        )
    scored[0].changed(num_samples=samples)  # too few for its metrics is an error before the fit, not after it


if __name__ == "__main__":
    main(sys.argv[1:])

"""Train a recipe for some minutes per method on a machine that may be taken away, and go on the next time.

    python examples/benchmarks/lease.py [--config RECIPE] [--methods LEAD-Adam Adam] [--minutes 5] [--output runs/lease]
                                        [--score-every 2500] [--samples 10000] [--fast] [--set KEY=VALUE ...]

Every call adds one segment to each method: it resumes last.ckpt of the method's folder, trains until its minutes are
over, writes a compact checkpoint and the generator (averaged where the recipe has a GeneratorEMA), scores it, and adds
to results.json what it has measured: images per second, hours to the recipe's max_steps, seconds of training without
scores, and a curve of scores over game steps. What scores need of the real images is computed before the first segment.
The files of one method are independent of the others', so methods can have machines of their own. --set changes the
recipe, as by trainer.precision=32-true; --fast is a recipe of digits that two cores play in a moment.

The two comparisons are read off the curves: at equal steps, and at equal time, as seconds = steps / steps per second.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning
import torch
import yaml

import lightning_lead
from lightning_lead import GenerativeMetrics, Throughput
from lightning_lead._files import finite
from lightning_lead.callbacks._generator_scores import find_reference
from lightning_lead.cli import main as command_line

METHODS = {
    "LEAD-Adam": "LEAD(coupling=1.0)",
    "LEAD-Adam-difference": "LEAD(coupling=1.0, cross='difference')",
    "Adam": "AlternatingGDA",
}
RECIPES = Path(__file__).parents[1] / "recipes"
KEPT = ("GeneratorEMA", "GenerativeMetrics")  # callbacks of the recipe; pictures and other checkpoints are left out
FAST = {  # with the recipe sngan.yaml: five discriminator steps of 4 images, two game steps per call
    "model.generator.init_args.width": 4,
    "model.discriminator.init_args.width": 4,
    "model.generator_batch_size": 8,
    "data.init_args.batch_size": 20,
}
ON_CUDA = {
    "trainer.precision": "bf16-mixed",
    "model.channels_last": True,
    "model.optimizer.init_args.fused": True,
}


def put(recipe: dict[str, Any], key: str, value: Any) -> None:
    """Set a value under a dotted key."""
    *path, last = key.split(".")
    for name in path:
        recipe = recipe.setdefault(name, {})
    recipe[last] = value


def derived(
    recipe: dict[str, Any], folder: Path, chosen: argparse.Namespace, changes: dict[str, Any]
) -> dict[str, Any]:
    """The recipe as a segment trains it."""
    trainer = recipe["trainer"]
    callbacks = [c for c in trainer.get("callbacks", []) if c["class_path"].rsplit(".", 1)[-1] in KEPT]
    for callback in callbacks:
        if callback["class_path"].endswith("GenerativeMetrics"):
            callback["init_args"] |= {"every_n_steps": chosen.score_every, "num_samples": chosen.samples}
    segment = {
        "dirpath": str(folder),
        "minutes": chosen.minutes,
        "every_minutes": max(1.0, chosen.minutes / 2),
        "check_every_n_steps": 2 if chosen.fast else 10,
        "generator": "float16",
    }
    callbacks += [
        {"class_path": "lightning_lead.SegmentCheckpoint", "init_args": segment},
        {"class_path": "lightning_lead.Throughput", "init_args": {"every_n_steps": 2 if chosen.fast else 20}},
    ]
    trainer |= {
        "callbacks": callbacks,
        "plugins": [{"class_path": "lightning_lead.CompactCheckpointIO"}],
        "default_root_dir": str(folder),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer["logger"] = False
    if torch.cuda.is_available():
        for key, value in ON_CUDA.items():
            put(recipe, key, value)
        if recipe["data"]["class_path"].endswith("CIFAR10DataModule"):
            put(recipe, "data.init_args.on_device", True)
    for key, value in ((FAST if chosen.fast else {}) | changes).items():
        put(recipe, key, value)
    return recipe


def built(name: str, chosen: argparse.Namespace, changes: dict[str, Any], *more: str) -> Any:
    """Trainer, model and data of a method, and the scores of its recipe."""
    folder = chosen.output / name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load(chosen.config.read_text(encoding="utf-8"))
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(derived(recipe, folder, chosen, changes), sort_keys=False), encoding="utf-8")
    sys.argv = ["lightning-lead", f"--config={file}", f"--game={METHODS[name]}", *more]
    cli = command_line(run=False)
    found = [callback for callback in cli.trainer.callbacks if isinstance(callback, GenerativeMetrics)]
    if not found:
        raise SystemExit("lease.py: the recipe has no GenerativeMetrics, so there is nothing to compare; add one")
    return SimpleNamespace(trainer=cli.trainer, model=cli.model, data=cli.datamodule, scores=found[0])


def pass_reals(run: Any) -> None:
    """Let the cache have what scores need of the real images, so that no method's segment pays for it."""
    run.data.prepare_data()
    run.data.setup("fit")
    knows: Any = SimpleNamespace(datamodule=run.data, train_dataloader=None)  # a Trainer knows its data in a run alone
    scorer = run.scores.scorer
    scorer.take_reference(find_reference(scorer.reference, knows, run.model), run.trainer.strategy.root_device)
    scorer.free()


def timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same function, which adds its seconds to the list."""

    def run(*arguments: Any) -> Any:
        begin = now()
        result = work(*arguments)
        seconds.append(now() - begin)
        return result

    return run


def now() -> float:
    """Seconds, when the device has done what it was told before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def segment(name: str, chosen: argparse.Namespace, changes: dict[str, Any]) -> dict[str, Any]:
    """One segment of one method, and its score."""
    folder, scoring = chosen.output / name, list[float]()
    run = built(name, chosen, changes)
    scorer = run.scores.scorer
    scorer.take_reference = timed(scorer.take_reference, scoring)
    scorer.measure_images = timed(scorer.measure_images, scoring)  # which draws the samples, chunk by chunk
    last = folder / "last.ckpt"
    run.trainer.fit(run.model, run.data, ckpt_path=str(last) if last.is_file() else None)
    speed = next(c for c in run.trainer.callbacks if isinstance(c, Throughput)).latest
    made = json.loads((folder / "segment.json").read_text(encoding="utf-8"))
    # within the segment alone: the score below is taken after it
    made["seconds_of_training"] = round(made["seconds_of_segment"] - sum(scoring), 3)
    scores = run.scores.history
    if not scores or scores[-1]["step"] != run.trainer.global_step:
        resumed = built(name, chosen, changes, "--trainer.limit_val_batches=1")
        resumed.trainer.validate(resumed.model, resumed.data, ckpt_path=str(last), verbose=False)
        scores = resumed.scores.history
    return {"segment": made | speed, "curve": scores, "checkpoint_bytes": last.stat().st_size}


def machine() -> dict[str, str]:
    """Where a segment has run."""
    return {
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": pytorch_lightning.__version__,
        "lightning_lead": lightning_lead.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """A segment of each method, results.json, and a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, help="recipe (default: cifar10_sngan32.yaml)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["LEAD-Adam", "Adam"])
    parser.add_argument("--minutes", type=float, default=5.0, help="per method (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/lease"), help="default: %(default)s")
    parser.add_argument("--score-every", type=int, default=2500, help="game steps (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=10_000, help="fakes per score (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="digits, two game steps per method")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    chosen = parser.parse_args(arguments)
    if chosen.fast:
        chosen.minutes, chosen.score_every, chosen.samples = 1e-6, 1000, 200
    chosen.config = chosen.config or RECIPES / ("sngan.yaml" if chosen.fast else "cifar10_sngan32.yaml")
    changes = {key: yaml.safe_load(value) for key, value in (change.split("=", 1) for change in chosen.set)}
    torch.set_float32_matmul_precision("high")  # for training: samples and features of scores never use TF32
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    pass_reals(built(chosen.methods[0], chosen, changes))
    for name in chosen.methods:
        made = segment(name, chosen, changes)
        before = results.get(name, {"game": METHODS[name], "segments": [], "curve": []})
        known = {record["step"] for record in made["curve"]}
        curve = [*(record for record in before["curve"] if record["step"] not in known), *made["curve"]]
        results[name] = {
            "game": METHODS[name],
            "segments": [*before["segments"], made["segment"] | machine()],
            "curve": sorted(curve, key=lambda record: record["step"]),
            "checkpoint_bytes": made["checkpoint_bytes"],
        }
        unfinished = path.with_suffix(".unfinished")  # after each method: a machine may be taken away at any time
        # a run that has diverged has scores that are no numbers
        unfinished.write_text(json.dumps(finite(results), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
    report(results)
    print(f"written: {path}")


def number(value: float | None) -> float:
    """What was read from a file, where null stands for no number."""
    return float("nan") if value is None else value


def report(results: dict[str, Any]) -> None:
    """A line for each method."""
    print("method               | game steps | images per second | hours to max_steps | last score")
    for name, result in results.items():
        last, score = result["segments"][-1], result["curve"][-1]
        rate, hours = (number(last.get(key)) for key in ("images_per_second", "hours_to_max_steps"))
        said = ", ".join(f"{key} {number(value):.4g}" for key, value in score["values"].items())
        print(f"{name:<20} | {last['global_step']:>10} | {rate:>17.4g} | {hours:>18.4g} | {said} at {score['step']}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The same GAN on digits by four game optimizers, from one recipe: a table, a plot, sample grids, checkpoints.

    python examples/demo.py [--steps N] [--seed S] [--output FOLDER]

Adam with β₁ = 0.5, the usual setting of a DCGAN, and with 0.8, that of vocoders; LEAD-Adam in both, at Adam's price by
one gradient at the extrapolated opponent, and in the exact form; and Adam with β₁ = 0, where it is at its best.
Everything else comes from `recipes/digits.yaml`, which is the second row.
"""

from __future__ import annotations

import argparse
import csv
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_lead import GenerativeMetrics
from lightning_lead.callbacks import to_uint8
from lightning_lead.cli import main as command_line
from lightning_lead.data import DigitsDataModule
from lightning_lead.features import DigitsClassifier

RECIPE = Path(__file__).with_name("recipes") / "digits.yaml"
METHODS = {
    "Adam (0.5)": {"coupling": 0.0, "cross": "extrapolated", "beta": 0.5},
    "LEAD-Adam (0.5)": {"coupling": "auto", "cross": "extrapolated", "beta": 0.5},
    "LEAD-Adam (0.5) exact": {"coupling": "auto", "cross": "exact", "beta": 0.5},
    "Adam (0.8)": {"coupling": 0.0, "cross": "extrapolated", "beta": 0.8},
    "LEAD-Adam (0.8)": {"coupling": "auto", "cross": "extrapolated", "beta": 0.8},
    "Adam (0.0)": {"coupling": 0.0, "cross": "extrapolated", "beta": 0.0},
}


class Row(NamedTuple):
    """One method's line in the table, and where its curve and files are."""

    method: str
    history: list[dict[str, Any]]
    seconds: float
    step: float  # the median one, in seconds
    folder: Path
    checkpoint: Path

    @property
    def last(self) -> dict[str, float]:
        values: dict[str, float] = self.history[-1]["values"]
        return values


class StepTimer(Callback):
    """Seconds inside game steps; scores, samples and checkpoints are not counted."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append(time.perf_counter() - self._start)


def train(method: str, folder: Path, *, steps: int, every: int, seed: int) -> Row:
    """Fit the recipe with one method's settings."""
    settings = METHODS[method]
    arguments = [
        f"--config={RECIPE}",
        f"--seed_everything={seed}",
        f"--trainer.max_steps={steps}",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--trainer.logger.init_args.name=log",
        "--trainer.logger.init_args.version=run",
        f"--model.game.init_args.coupling={settings['coupling']}",
        f"--model.game.init_args.cross={settings['cross']}",
        f"--model.optimizer.init_args.betas=[{settings['beta']},0.9]",
        "--trainer.enable_model_summary=false",
    ]
    timer = StepTimer()
    built = command_line(arguments, run=False)
    # the recipe's own checkpoints go to a folder of its own, which a comparison must not overwrite
    recipe = [c for c in built.trainer.callbacks if not isinstance(c, ModelCheckpoint)]
    built.trainer.callbacks = [timer, *recipe]
    (metrics,) = [c for c in built.trainer.callbacks if isinstance(c, GenerativeMetrics)]
    metrics.every_n_steps = every
    print(f"\n{method}: {steps} game steps")
    built.trainer.fit(built.model, built.datamodule)
    checkpoint = folder / "final.ckpt"
    built.trainer.save_checkpoint(checkpoint)
    return Row(method, metrics.history, sum(timer.steps), statistics.median(timer.steps), folder, checkpoint)


def floor(splits: int = 5) -> tuple[float, int]:
    """FID of one half of the digits against the other, mean over random splits, and the size of a half."""
    images, extractor = to_uint8(DigitsDataModule().reference_images()), DigitsClassifier.pretrained()
    half, total = len(images) // 2, 0.0
    for split in range(splits):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(split))
        fid = FrechetInceptionDistance(feature=extractor)
        fid.update(images[order[:half]], real=True)
        fid.update(images[order[half : 2 * half]], real=False)
        total += fid.compute().item()
    return total / splits, half


def table(rows: list[Row]) -> str:
    """The comparison, relative to the first row's cost."""
    lines = [f"{'method':28}{'FID':>8}{'classifier score':>19}{'confidence':>12}{'rarest':>9}{'seconds':>9}{'cost':>7}"]
    for row in rows:
        v = row.last
        lines.append(
            f"{row.method:28}{v['fid']:8.2f}{v['classifier_score']:19.2f}{v['confidence']:12.3f}"
            f"{v['class_coverage']:9.1%}{row.seconds:9.1f}{row.step / rows[0].step:6.2f}×"
        )
    return "\n".join(lines)


def plot(rows: list[Row], lowest: float, path: Path) -> None:
    """FID against generator updates, one line per method."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for row in rows:
        axes.plot(
            [r["step"] for r in row.history], [r["values"]["fid"] for r in row.history], marker="o", label=row.method
        )
    axes.axhline(lowest, color="grey", linestyle=":", label="real against real, halves")
    axes.set(xlabel="generator updates", ylabel="FID (digits classifier, 64 features)", yscale="log", title="Digits")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Train, compare, and say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="game steps per method (default: %(default)s)")
    parser.add_argument("--every", type=int, default=250, help="game steps between scores (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and latents (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="where files go (default: %(default)s)")
    options = parser.parse_args()
    if options.steps % options.every:
        parser.error(f"--every must divide --steps, so that the last score is of the last step (got {options})")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # networks this small gain nothing from more, and lose much where another program runs
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rows = []
    for number, method in enumerate(METHODS):
        folder = options.output / f"{number}-{method.split()[0].lower()}"
        rows.append(train(method, folder, steps=options.steps, every=options.every, seed=options.seed))
    lowest, half = floor()
    options.output.mkdir(parents=True, exist_ok=True)
    plot(rows, lowest, options.output / "fid.png")
    with (options.output / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "step", *rows[0].last])
        for row in rows:
            writer.writerows([row.method, r["step"], *r["values"].values()] for r in row.history)
    count = rows[0].history[-1]["protocol"]["num_samples"]
    print(f"\n{table(rows)}")
    print(f"FID of {count} samples against all 1,797 digits; floor (real {half} against real {half}): {lowest:.2f}.")
    print(
        "rarest: share of the rarest class among the samples; cost: the median game step relative to that of the first "
        "row, which other work on the machine moves (docs/cost.md has counts).\n"
    )
    best = min((row for row in rows if row.method.startswith("LEAD")), key=lambda row: row.last["fid"])
    grid = sorted(best.folder.rglob("sample_*.png"))[-1]
    print(f"samples ({best.method}): {grid}")
    print(f"FID plot: {options.output / 'fid.png'}")
    print(f"metrics: {options.output / 'metrics.csv'}")
    print(f"checkpoint: {best.checkpoint}")


if __name__ == "__main__":
    main()

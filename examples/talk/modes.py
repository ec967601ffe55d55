"""Eight Gaussians on a ring: when each method finds all modes, and what its samples look like on the way.

    python examples/talk/modes.py [--output runs/talk] [--seeds 0 1 2 3 4] [--jobs 2] [--fast]

`modes.png`: modes found, mean over seeds, at equal game steps and at equal evaluations (a gradient of one player is
one, a Hessian product too); beside a strip the median of when all eight are first there. `samples.png`: samples of seed
0. Every method has the settings of `recipes/gaussians_games.yaml`. Kept runs are not made again.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from matplotlib.figure import Figure
from pytorch_lightning import Callback
from torch import Tensor
from training import RECIPES, add_jobs, quiet, results_of

from lightning_lead import DivergenceError
from lightning_lead.cli import main as command_line
from lightning_lead.compare import Entry, plan_runs
from lightning_lead.compare._plan import read_entries
from lightning_lead.gan._sampling import generate

RECIPE = RECIPES / "gaussians.yaml"
EIGHT = 8


class Method(NamedTuple):
    """What came of one method."""

    label: str
    steps: list[int]
    modes: list[list[float]]  # of each seed, at these steps
    evaluations: float  # per game step

    @property
    def first(self) -> list[float]:
        """The step at which a seed first has all eight; infinite if never."""
        return [next((s for s, m in zip(self.steps, seed, strict=True) if m >= EIGHT), math.inf) for seed in self.modes]

    @property
    def mean(self) -> list[float]:
        """Modes at every step."""
        return [statistics.fmean(values) for values in zip(*self.modes, strict=True)]


def measured(entries: Sequence[Entry], options: Any, steps: int, every: int) -> list[Method]:
    """Every method with a result, the fastest first. A seed that failed has found nothing."""
    extra = [f"--trainer.max_steps={steps}", f"--every={every}"]
    runs = plan_runs(entries, RECIPE, options.seeds, options.folder, extra)
    results = results_of(runs, jobs=options.jobs)
    methods = []
    for entry in entries:
        own = [r for run, r in zip(runs, results, strict=True) if run.entry is entry]
        done = [r for r in own if "history" in r]
        if done:
            at = [record["step"] for record in done[0]["history"]]
            modes = [[record["values"]["modes"] for record in result["history"]] for result in done]
            modes += [[0.0] * len(at)] * (len(own) - len(done))
            evaluations = statistics.fmean(sum(result["evaluations_per_step"].values()) for result in done)
            methods.append(Method(entry.label, at, modes, evaluations))
    return sorted(methods, key=lambda m: (statistics.median(m.first), -statistics.fmean(m.mean)))


def strips(methods: Sequence[Method]) -> Figure:
    """A strip per method, against steps and against evaluations."""
    figure, panels = plt.subplots(1, 2, figsize=(15, 6.5), layout="constrained", sharey=True)
    for axes, per_step in zip(panels, (False, True), strict=True):
        scales = [method.evaluations if per_step else 1.0 for method in methods]
        most = max(methods[0].steps) * (4.0 if per_step else 1.0)  # what exact LEAD asks for in all of the run
        for row, (method, scale) in enumerate(zip(methods, scales, strict=True)):
            edges = [0.0, *(step * scale for step in method.steps)]
            strip = axes.pcolormesh(edges, [row - 0.45, row + 0.45], [method.mean], cmap="viridis", vmin=0, vmax=EIGHT)
            first = statistics.median(method.first)
            found = sum(math.isfinite(f) for f in method.first)
            when = f"{first * scale:,.0f}" if math.isfinite(first) else "–"
            axes.text(most * 1.02, row, f"{when}  ({found} of {len(method.first)})", va="center", fontsize=9)
        axes.set(xlim=(0, most), xlabel="evaluations" if per_step else "game steps", ylim=(len(methods) - 0.5, -0.5))
        axes.text(most * 1.02, -0.75, "all eight: median (seeds)", fontsize=9, style="italic")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(methods)), [method.label for method in methods])
    figure.colorbar(strip, ax=panels, label="modes found, mean over seeds", shrink=0.6, pad=0.14)
    return figure


class Snapshots(Callback):
    """Points of the generator at some game steps."""

    def __init__(self, at: Sequence[int], count: int) -> None:
        self.at, self.count = at, count
        self.points: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step in self.at:
            (drawn,) = generate(pl_module, self.count, seed=0, batch_size=self.count)
            self.points.append(drawn.cpu())


def snapshots(entry: Entry, at: Sequence[int], folder: Path) -> list[Tensor]:
    """Of a run with seed 0, up to where it diverges if it does; kept in the folder."""
    names = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    extra = [f"--trainer.max_steps={at[-1]}", *(f"--trainer.{name}=false" for name in names)]
    (run,) = plan_runs([entry], RECIPE, [0], folder, extra)
    path = folder / entry.slug / f"samples_{run.fingerprint}_{'_'.join(map(str, at))}.pt"
    if path.is_file():
        points: list[Tensor] = torch.load(path, weights_only=True)
        return points
    built = command_line(list(run.arguments), run=False)
    taken = Snapshots(at, count=512)
    built.trainer.callbacks = [taken]
    with contextlib.suppress(DivergenceError):
        built.trainer.fit(built.model, built.datamodule)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(taken.points, path)
    return taken.points


def pictures(entries: Sequence[Entry], at: Sequence[int], folder: Path) -> Figure:
    """A row per checkpoint, a column per method."""
    half = math.ceil(len(entries) / 2)
    rows = 2 * len(at) if len(entries) > 1 else len(at)
    figure, panels = plt.subplots(
        rows, half, figsize=(1.55 * half, 1.6 * rows), layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for axes in panels.flat:
        axes.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[], yticks=[], aspect="equal")
    for number, entry in enumerate(entries):
        block, column = divmod(number, half)
        for row, (step, points) in enumerate(zip(at, snapshots(entry, at, folder), strict=False)):
            axes = panels[block * len(at) + row, column]
            axes.scatter(*points.T, s=1.5, color="#d62728" if "LEAD" in entry.label else "#444444", linewidths=0)
            if column == 0:
                axes.set_ylabel(f"step {step:,}", fontsize=9)
            if row == 0:
                axes.set_title(entry.label.replace(", ", ",\n").replace(" into", "\ninto"), fontsize=8.5)
    return figure


def table(methods: Sequence[Method]) -> str:
    """The strips in numbers, in Markdown."""
    lines = [
        "| method | all eight first there, step (median) | evaluations | seeds | modes at the end |",
        "|---" * 5 + "|",
    ]
    for method in methods:
        first = statistics.median(method.first)
        found = f"{sum(math.isfinite(f) for f in method.first)} of {len(method.first)}"
        last = [seed[-1] for seed in method.modes]
        end = f"{statistics.fmean(last):.1f}" + (f" ± {statistics.stdev(last):.1f}" if len(last) > 1 else "")
        when = [f"{first:,.0f}", f"{first * method.evaluations:,.0f}"] if math.isfinite(first) else ["–", "–"]
        lines.append("| " + " | ".join([method.label, *when, found, end]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Play, and draw."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add_jobs(parser)
    options = parser.parse_args()
    quiet()
    entries = read_entries([], RECIPES / "gaussians_games.yaml")
    steps, every, at = 1250, 50, [50, 100, 250, 500, 750, 1000, 1250]
    if options.fast:
        entries, steps, every, at, options.seeds = entries[:2], 4, 2, [2, 4], [0]
    options.folder = options.output / ("modes_fast" if options.fast else "modes")
    methods = measured(entries, options, steps, every)
    save(strips(methods), options.output, "modes")
    print(table(methods))
    save(pictures(entries, at, options.folder), options.output, "samples")


if __name__ == "__main__":
    main()

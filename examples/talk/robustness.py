"""How a method takes to its settings: FID on digits at equal compute over β₁ and learning rate, and against β₁ alone.

    python examples/talk/robustness.py [--output runs/talk] [--jobs 2] [--seeds 0 1 2] [--fast]

Every run has the counted FLOPs of 300 steps of alternating Adam: a dearer method makes fewer. Nothing is tuned:
LEAD's coupling is "auto", set by β₁. All seeds in every cell of Adam, OptimisticAdam and LEAD's extrapolated form; of
the dearer two the first, and all where it is framed (the best cell, and the recipe's). Below a map: the share of its
settings by which every digit is at least 3 % of the samples, in all seeds. Kept runs are not made again.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from cost import flops
from drawing import parser_of, save
from matplotlib.colors import LogNorm
from training import RECIPES, add_jobs, quiet, results_of

from lightning_lead.compare import Entry, Run, plan_runs

BETAS = (0.0, 0.5, 0.7, 0.8, 0.9)
RATES = (5e-4, 2e-3, 8e-3)
METHODS = {
    "Adam": "AlternatingGDA",
    "OptimisticAdam": "OptimisticAdam",
    "LEAD extrapolated": "LEAD(cross='extrapolated')",
    "LEAD exact": "LEAD",
    "ExtraAdam": "ExtraAdam",
}
EVERY_SEED = ("Adam", "OptimisticAdam", "LEAD extrapolated")
USUAL = (0.5, 2e-3)  # of the recipe
LEAST = 0.03  # of the samples, for a class to count as there


class Setting(NamedTuple):
    """A cell of a map."""

    method: str
    beta: float
    rate: float


class Score(NamedTuple):
    """What came of it, one number per seed."""

    fid: list[float]
    rarest: list[float]

    @property
    def mean(self) -> float:
        """FID, infinite where a run has diverged."""
        return statistics.fmean(self.fid)


def entry_of(setting: Setting, steps: int) -> Entry:
    """As a line of a comparison."""
    overrides = (
        f"--model.optimizer.init_args.betas=[{setting.beta},0.9]",
        f"--model.generator_lr={setting.rate}",
        f"--model.discriminator_lr={setting.rate}",
        f"--trainer.max_steps={steps}",
        f"--every={steps}",
    )
    label = f"{setting.method}, beta {setting.beta:g}, lr {setting.rate:g}"
    return Entry(label, METHODS[setting.method], overrides)


def play(settings: list[Setting], seeds: list[int], steps: dict[str, int], options: Any) -> dict[Setting, Score]:
    """The scores of all seeds."""
    entries = {entry_of(setting, steps[setting.method]): setting for setting in settings}
    folder = options.output / ("robustness_fast" if options.fast else "robustness")
    runs: list[Run] = plan_runs(list(entries), RECIPES / "digits.yaml", seeds, folder, [])
    scores = {setting: Score([], []) for setting in settings}
    for run, result in zip(runs, results_of(runs, jobs=options.jobs), strict=True):
        last = result["history"][-1]["values"] if "history" in result else {"fid": math.inf, "class_coverage": 0.0}
        scores[entries[run.entry]].fid.append(last["fid"])
        scores[entries[run.entry]].rarest.append(last["class_coverage"])
    return scores


def draw(
    axes: plt.Axes,
    method: str,
    steps: int,
    scores: dict[Setting, Score],
    grid: tuple[Any, Any],
    framed: list[Setting],
) -> Any:
    """One heat map."""
    betas, rates = grid
    cells = [[scores[Setting(method, beta, rate)] for beta in betas] for rate in rates]
    means = [[min(max(cell.mean, 10.0), 3000.0) for cell in row] for row in cells]
    shown = axes.imshow(means, norm=LogNorm(15, 1500), cmap="viridis_r", origin="lower", aspect="auto")
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            dark = means[i][j] > 150
            text = f"{cell.mean:.0f}" if math.isfinite(cell.mean) else "∞"
            if len(cell.fid) > 1:
                text += f"\n±{_spread(cell):.0f}"
            if Setting(method, betas[j], rates[i]) in framed:
                axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="#d62728", lw=2.5, zorder=3))
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    reached = sum(min(cell.rarest) >= LEAST for row in cells for cell in row) / (len(betas) * len(rates))
    axes.set_title(f"{method}: {steps} game steps", fontsize=11)
    axes.set_xlabel(f"all ten digits in {reached:.0%} of the settings", fontsize=10)
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    return shown


def table(scores: dict[Setting, Score], steps: dict[str, int], framed: list[Setting]) -> str:
    """The maps in numbers, in Markdown."""
    lines = ["| method | steps | best: β₁, lr | FID there | at β₁ = 0.5, 2e-3 | median FID | all ten digits |"]
    lines.append("|---" * 7 + "|")
    for method in steps:
        own = {s: score for s, score in scores.items() if s.method == method}
        best = min((s for s in framed if s.method == method), key=lambda s: own[s].mean)
        reached = sum(min(score.rarest) >= LEAST for score in own.values()) / len(own)
        usual = own.get(Setting(method, *USUAL))
        cells = [method, str(steps[method]), f"{best.beta:g}, {best.rate:g}", _text(own[best]), _text(usual)]
        median = statistics.median(score.mean for score in own.values())
        lines.append("| " + " | ".join([*cells, f"{median:.0f}", f"{reached:.0%}"]) + " |")
    return "\n".join(lines)


def _text(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{score.mean:.1f} ± {_spread(score):.1f}"


def _spread(score: Score) -> float:
    return statistics.stdev(score.fid) if len(score.fid) > 1 and math.isfinite(score.mean) else math.nan


def against_momentum(scores: dict[Setting, Score], methods: list[str], betas: Any, rate: float) -> plt.Figure:
    """FID against β₁ at one learning rate, a line per method; bands reach from the best seed to the worst."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for method in methods:
        cells = [scores[Setting(method, beta, rate)] for beta in betas]
        means = [cell.mean for cell in cells]
        (line,) = axes.plot(betas, means, "o-", label=method)
        if all(len(cell.fid) > 1 for cell in cells):
            ends = zip(*((min(cell.fid), max(cell.fid)) for cell in cells), strict=True)
            axes.fill_between(betas, *ends, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="β₁ of Adam", ylabel="FID (log scale)", yscale="log", xticks=betas)
    axes.set_title("Digits at the FLOPs of 300 steps of Adam, nothing tuned")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    """Play, and draw."""
    parser = parser_of(__doc__)
    add_jobs(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of every cell (default: %(default)s)")
    options = parser.parse_args()
    quiet()
    grid = ((0.5,), (2e-3,)) if options.fast else (BETAS, RATES)
    budget, width = (4, 4) if options.fast else (300, 24)
    methods = list(METHODS)[:2] if options.fast else list(METHODS)
    base = flops("AlternatingGDA", width)
    steps = {method: round(budget * base / flops(METHODS[method], width)) for method in methods}
    settings = [Setting(method, beta, rate) for method in methods for beta in grid[0] for rate in grid[1]]
    seeds = options.seeds[:1] if options.fast else options.seeds
    scores = play(settings, seeds[:1], steps, options)
    scores |= play([s for s in settings if s.method in EVERY_SEED], seeds, steps, options)
    framed = []
    for method in methods:
        best = min((s for s in settings if s.method == method), key=lambda s: scores[s].mean)
        framed += list(dict.fromkeys([best, Setting(method, *USUAL)]))
    scores |= play([s for s in framed if s.method not in EVERY_SEED], seeds, steps, options)
    figure, panels = plt.subplots(2, 3, figsize=(14, 6.6), layout="constrained", sharey=True)
    panels[1, 2].set_axis_off()
    for axes, method in zip(panels.flat, methods, strict=False):
        shown = draw(axes, method, steps[method], scores, grid, framed)
    figure.supxlabel("β₁")
    figure.supylabel("learning rate of both players")
    figure.colorbar(shown, ax=panels, label="FID (log scale)", shrink=0.6)
    figure.suptitle(f"Digits: FID at the FLOPs of 300 steps of Adam; ±: standard deviation of {len(seeds)} seeds")
    save(figure, options.output, "robustness")
    save(against_momentum(scores, methods, grid[0], USUAL[1]), options.output, "momentum")
    print(table(scores, steps, framed))


if __name__ == "__main__":
    main()

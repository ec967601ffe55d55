"""Does strong coupling with positive momentum, where alternating LEAD is fast on quadratic games, carry over to GANs?

    python examples/talk/strong_coupling.py [--output runs/talk] [--seeds 0 1 2] [--digits-seeds 0] [--jobs 2] [--fast]

Alternating LEAD, exact, over momentum β and coupling a = α/η. Above, the Dirac-GAN at the best of many step sizes: the
radius at its equilibrium, and the game steps from (1, 1) to 10⁻⁶ of the distance, played by SGD with momentum. Below,
LEAD-Adam at the step sizes of the recipes: eight Gaussians (1,250 game steps) and digits (500); β is Adam's β₁, a = 0
is plain Adam; mean ± standard deviation over seeds, if there are several. On bilinear games small steps shrink where
a > β/(1 − β), which is the red line, and the law of docs/games.md is a = √β/(1 − √β), the white one.

A quarter of an hour on one core per GAN and seed. Each fit is a run of `lightning_lead.compare`, kept beside the
figure: stopped, the same command goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from matplotlib.colors import LogNorm, Normalize
from torch import Tensor
from training import RECIPES, add_jobs, quiet, results_of

from lightning_lead.analysis import Match, alternating_lead_law, eigenvalues, least_coupling
from lightning_lead.compare import Entry, plan_runs, summary
from lightning_lead.games import DiracGAN
from lightning_lead.rules import LEAD

MOMENTA = (0.0, 0.5, 0.7, 0.9)
COUPLINGS = (0.0, 0.3, 1.0, 3.0, 10.0)
FREQUENCY = float(DiracGAN().jacobian(DiracGAN().equilibrium())[1, 0])  # σ of the Dirac-GAN at its equilibrium

Setting = tuple[float, float]  # β, a


class Cell(NamedTuple):
    """What is drawn of a setting."""

    value: float  # NaN: it did not get there
    text: str


class Study(NamedTuple):
    """A recipe, how long it is trained, and what is shown of it."""

    recipe: str
    steps: int
    every: int  # game steps between scores
    scores: tuple[str, ...]  # the last one decides the colour


GAUSSIANS = Study("gaussians", 1250, 250, ("modes", "high_quality"))
DIGITS = Study("digits", 500, 250, ("fid",))


def radii(setting: Setting, frequencies: Tensor) -> Tensor:
    """Per game step, near an equilibrium without curvature, where of step size and frequency ησ alone counts."""
    beta, coupling = setting
    found = eigenvalues(LEAD(coupling), sigma=frequencies, lr=1.0, play="alternating", momentum=beta)
    return found.abs().amax(dim=-1)


def played(setting: Setting, *, sizes: int, limit: int) -> float:
    """Game steps from (1, 1) to 10⁻⁶ of the distance at the best step size; NaN if none is there within the limit.

    Step sizes that do not shrink near the equilibrium cannot settle there, and are not played.
    """
    beta, coupling = setting
    game, best = DiracGAN(), limit + 1
    rates = torch.logspace(math.log10(0.1), math.log10(5), sizes, dtype=torch.float64)
    radius, order = radii(setting, rates * FREQUENCY).sort()  # good ones first, so that others end early
    for lr in rates[order[radius < 1 - 1e-6]].tolist():
        match = Match(
            LEAD(coupling),
            game,
            lr=lr,
            play="alternating",
            start=game.point([1.0], [1.0]),
            optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=beta),
        )
        goal = 1e-6 * match.distance
        for step in range(1, best):
            match.step()
            if match.distance <= goal:
                best = step
            if not goal < match.distance < 1e9 * goal:
                break
    return best if best <= limit else math.nan


def trained(
    study: Study, settings: Sequence[Setting], seeds: Sequence[int], folder: Path, jobs: int
) -> dict[Setting, Cell]:
    """The last scores of every setting."""
    entries = []
    for beta, coupling in settings:
        game = f"LEAD(coupling={coupling})" if coupling else "AlternatingGDA"
        label = f"a = {coupling:g}, beta1 = {beta:g}"
        entries.append(Entry(label, game, (f"--model.optimizer.init_args.betas=[{beta},0.9]",)))
    extra = [f"--trainer.max_steps={study.steps}", f"--every={study.every}"]
    runs = plan_runs(entries, RECIPES / f"{study.recipe}.yaml", seeds, folder / study.recipe, extra)
    rows = summary(runs, results_of(runs, jobs=jobs))
    return {setting: cell_of(row, study.scores) for setting, row in zip(settings, rows, strict=True)}


def cell_of(row: dict, scores: Sequence[str]) -> Cell:
    """Mean and deviation of each score."""
    if any(score not in row for score in scores):
        return Cell(math.nan, "failed")
    lines = []
    for score in scores:
        mean, spread = row[score]
        several = row["seeds"] > 1
        places = 2 if score == "high_quality" else int(several if score == "modes" else mean < 100)
        text = f"{mean:.{places}f}" + (f" ± {spread:.{places}f}" if several else "")
        lines.append(text + " modes" * (score == "modes"))
    return Cell(row[scores[-1]][0], "\n".join(lines) + (f"\n{len(row['failed'])} failed" if row["failed"] else ""))


def draw_map(axes: plt.Axes, figure: plt.Figure, *, fast: bool) -> None:
    """The Dirac-GAN at its equilibrium."""
    points = 8 if fast else 49
    frequencies = torch.logspace(-2, math.log10(4), 40 if fast else 400, dtype=torch.float64)
    couplings = torch.logspace(-1, math.log10(30), points).tolist()
    momenta = torch.linspace(0, 0.96, points).tolist()
    radius = torch.tensor([[float(radii((beta, a), frequencies).min()) for beta in momenta] for a in couplings])
    levels = [0.2 + 0.08 * k for k in range(11)]
    shown = axes.contourf(momenta, couplings, radius.clamp(max=1.0), levels=levels, cmap="viridis_r", extend="min")
    line = torch.linspace(0.005, 0.96, 300)
    axes.plot(line, line / (1 - line), color="#d62728", lw=2.5, label="small steps shrink above a = β / (1 − β)")
    axes.plot(line, line.sqrt() / (1 - line.sqrt()), color="white", lw=1.5, ls="--", label="the law, for all κ")
    law = alternating_lead_law(FREQUENCY, FREQUENCY)
    label = f"the law for one frequency, ρ = {law.rate:.2f}"
    axes.plot([law.beta], [law.coupling], "*", color="#d62728", ms=15, mec="white", label=label)
    axes.set(yscale="log", xlabel="momentum β", ylabel="coupling a = α/η", ylim=(0.1, 30), xlim=(0, 0.96))
    axes.set_title(
        "Dirac-GAN at its equilibrium, radius at the best step size:\none frequency, so momentum can only cost (ρ ≥ √β)"
    )
    axes.legend(loc="lower right", fontsize=8, facecolor="#555555", labelcolor="white", framealpha=0.9)
    figure.colorbar(shown, ax=axes, label="spectral radius per game step")


def draw_cells(
    axes: plt.Axes, figure: plt.Figure, cells: dict[Setting, Cell], norm: Normalize, cmap: str, score: str
) -> None:
    """A coloured cell per setting, with its numbers; grey where there is none."""
    momenta, couplings = (sorted({setting[k] for setting in cells}) for k in range(2))
    colours = plt.get_cmap(cmap).with_extremes(bad="#d9d9d9")
    values = torch.tensor([[cells[beta, a].value for beta in momenta] for a in couplings])
    shown = axes.pcolormesh(values, norm=norm, cmap=colours, edgecolors="white", linewidth=1.5)
    for (beta, a), cell in cells.items():
        x, y = momenta.index(beta), couplings.index(a)
        red, green, blue, _ = colours(norm(cell.value)) if math.isfinite(cell.value) else (1, 1, 1, 1)
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
        axes.text(x + 0.5, y + 0.5, cell.text, ha="center", va="center", fontsize=9, color=ink)
    heights = [sum(a <= least_coupling(beta) for a in couplings) for beta in momenta]
    axes.stairs(heights, range(len(momenta) + 1), baseline=None, color="#d62728", lw=3.5)
    axes.set_xticks([k + 0.5 for k in range(len(momenta))], [f"{beta:g}" for beta in momenta])
    axes.set_yticks([k + 0.5 for k in range(len(couplings))], [f"{a:g}" for a in couplings])
    axes.tick_params(length=0)
    axes.set_ylabel("coupling a")
    figure.colorbar(shown, ax=axes, label=score)


def verdict(cells: dict[Setting, Cell]) -> str:
    """What the strongest coupling makes of the largest momentum, and what Adam has without momentum."""
    shown = {s: f"{cell.value:.{2 if cell.value < 1 else int(cell.value < 100)}f}" for s, cell in cells.items()}
    beta, coupling = max(cells)
    found = f"β₁ = {beta:g}: {shown[beta, 0.0]} by Adam, {shown[beta, coupling]} by a = {coupling:g}"
    return found + (f"; β₁ = 0: {shown[0.0, 0.0]} by Adam" if (0.0, 0.0) in cells else "")


def table(name: str, cells: dict[Setting, Cell]) -> str:
    """The numbers of a panel in Markdown."""
    momenta, couplings = (sorted({setting[k] for setting in cells}) for k in range(2))
    lines = [
        f"\n| {name}, a \\ β | " + " | ".join(f"{beta:g}" for beta in momenta) + " |",
        "|---|" + "---|" * len(momenta),
    ]
    for a in couplings:
        lines.append(f"| {a:g} | " + " | ".join(cells[beta, a].text.replace("\n", "; ") for beta in momenta) + " |")
    return "\n".join(lines)


def main() -> None:
    """Four panels in one figure."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of eight Gaussians (default: 0 1 2)")
    parser.add_argument("--digits-seeds", nargs="+", type=int, default=[0], help="of digits (default: 0)")
    add_jobs(parser)
    options = parser.parse_args()
    quiet()
    figure, panels = plt.subplots(2, 2, figsize=(14, 11), layout="constrained")
    draw_map(panels[0, 0], figure, fast=options.fast)

    momenta, couplings = ((0.0, 0.5), (0.0, 3.0)) if options.fast else (MOMENTA, COUPLINGS)
    settings = [(beta, a) for beta in momenta for a in couplings]
    sizes, limit = (3, 100) if options.fast else (16, 3000)
    counts = {setting: played(setting, sizes=sizes, limit=limit) for setting in settings}
    dirac = {setting: Cell(n, f"{n:.0f}" if math.isfinite(n) else "never") for setting, n in counts.items()}
    draw_cells(panels[0, 1], figure, dirac, LogNorm(20, 2000), "viridis_r", "game steps to 10⁻⁶ of the distance")
    panels[0, 1].set_title(
        "Dirac-GAN from (1, 1), game steps at the best step size:\nonce there is momentum, only a > β / (1 − β) arrives"
    )
    panels[0, 1].set_xlabel("momentum β of SGD")

    folder, studies = options.output / "strong_coupling", (GAUSSIANS, DIGITS)
    seeds = (options.seeds, options.digits_seeds)
    if options.fast:  # half of the grid
        folder, settings, seeds = folder.with_name("strong_coupling_fast"), settings[2:], ([0], [0])
        studies = tuple(study._replace(steps=3, every=3) for study in studies)
    gaussians, digits = (
        trained(study, settings, s, folder, options.jobs) for study, s in zip(studies, seeds, strict=True)
    )
    draw_cells(panels[1, 0], figure, gaussians, Normalize(0, 1), "viridis", "share of samples within 3σ of a mode")
    panels[1, 0].set_title(f"Eight Gaussians, good samples: coupling repairs momentum\n{verdict(gaussians)}")
    draw_cells(panels[1, 1], figure, digits, LogNorm(20, 2000), "viridis_r", "FID")
    panels[1, 1].set_title(f"Digits, FID: coupling repairs momentum, doing without is better\n{verdict(digits)}")
    for axes in panels[1]:
        axes.set_xlabel("β₁ of Adam")
    save(figure, options.output, "strong_coupling")
    for name, cells in {"Dirac-GAN": dirac, "eight Gaussians": gaussians, "digits": digits}.items():
        print(table(name, cells))


if __name__ == "__main__":
    main()

"""Where alternating LEAD is fast: its stability map, and its best rate against the condition number of the game.

    python examples/talk/regime.py [--output runs/talk] [--fast]

Above: bilinear games with σ in [0.2, 1]; the radius at the best step size, over momentum β and coupling α/η. Below:
game steps, and gradients and Hessian products, to shrink the distance by 10⁶, every rule at its best settings, beside
the law for alternating LEAD and the lower bound for products with A and with Aᵀ in pairs. Ten minutes on one core.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import torch
from contenders import CGD_NAME, COLOURS, LEAD_NAME, best_of_all, evaluations, game_steps, solver_evaluations
from drawing import legend_of, parser_of, save, striped
from matplotlib.lines import Line2D

from lightning_lead.analysis import Spectrum, alternating_lead_law, stability_region
from lightning_lead.rules import LEAD


def best_radius(spectrum: Spectrum, couplings: list[float], momenta: list[float], *, rates: int) -> torch.Tensor:
    """The smallest radius over step sizes, at each coupling and momentum."""
    steps = torch.logspace(math.log10(0.004), math.log10(1.5), rates).tolist()
    maps = [
        stability_region(
            lambda a, beta, lr=lr: (LEAD(a), {"lr": lr, "momentum": beta}),
            couplings,
            momenta,
            spectrum,
            play="alternating",
        )
        for lr in steps
    ]
    return torch.stack(maps).min(dim=0).values


def draw_map(axes: plt.Axes, figure: plt.Figure, *, fast: bool) -> None:
    """6a: radius over β and α/η."""
    points, rates = (8, 8) if fast else (33, 120)
    spectrum = Spectrum.between(0.2, 1.0, points=5)
    couplings = torch.logspace(-1, math.log10(30), points).tolist()
    momenta = torch.linspace(0, 0.96, points).tolist()
    radius = best_radius(spectrum, couplings, momenta, rates=rates)
    shown = axes.contourf(
        momenta, couplings, radius.clamp(max=1.0), levels=[0.8 + 0.02 * k for k in range(11)], cmap="viridis_r"
    )
    law = alternating_lead_law(0.2, 1.0)
    line = torch.linspace(0.01, 0.96, 200)
    axes.plot(line, line / (1 - line), color="#d62728", lw=2, label="small steps shrink above a = β / (1 − β)")
    axes.plot(line, line.sqrt() / (1 - line.sqrt()), color="white", lw=1.5, ls="--", label="α/η = √β / (1 − √β)")
    axes.plot(
        [law.beta], [law.coupling], "*", color="#d62728", ms=17, mec="white", label=f"the law: ρ = {law.rate:.3f}"
    )
    axes.plot(
        [0.0], [1.0], "o", color="white", mec="black", ms=8, clip_on=False, label="optimistic gradient (β = 0, a = 1)"
    )
    axes.set(yscale="log", xlabel="momentum β", ylabel="coupling α/η", ylim=(0.1, 30), xlim=(0, 0.96))
    axes.set_title("Alternating LEAD: radius at the best step size\nbilinear game, σ in [0.2, 1]")
    legend = axes.legend(loc="lower right", fontsize=8, facecolor="#555555", labelcolor="white", framealpha=0.9)
    legend.set_zorder(10)
    figure.colorbar(shown, ax=axes, label="spectral radius per game step")


def draw_conditions(by_step: plt.Axes, by_work: plt.Axes, *, fast: bool) -> None:
    """6b: against κ, game steps and evaluations."""
    kappas = [2.0, 5.0] if fast else torch.logspace(math.log10(1.5), 2, 10, dtype=torch.float64).tolist()
    found = [best_of_all(Spectrum.between(1.0, k), fast=fast) for k in kappas]
    steps = {name: [game_steps(best[name].radius) for best in found] for name in found[0]}
    work = {name: [evaluations(best[name]) for best in found] for name in found[0]}
    work[CGD_NAME] = [solver_evaluations(1.0, k, 0.0, fast=fast) for k in kappas]
    law = [game_steps(alternating_lead_law(1.0, k).rate) for k in kappas]
    bound = [game_steps((k - 1) / (k + 1)) for k in kappas]
    by_work.plot(kappas, [2 * n for n in bound], color="black", ls=":", lw=2)
    for axes, curves, per_step in ((by_step, steps, 1), (by_work, work, found[0][LEAD_NAME].evaluations)):
        striped(axes, kappas, curves, COLOURS)
        axes.plot(kappas, [per_step * n for n in law], "D", mfc="none", mec="black", ms=7, zorder=6)
        axes.set(xscale="log", yscale="log", xlabel="condition number κ = L/m", ylabel="to shrink the distance by 10⁶")
        axes.grid(alpha=0.3, which="major")
    by_step.set_title("Game steps at best settings (competitive gradient descent: any)")
    by_work.set_title("Gradients and Hessian products, of both players, at best settings")


def main() -> None:
    """Three panels in one figure, and a legend in the place of the fourth."""
    options = parser_of(__doc__).parse_args()
    figure, ((left, right), (by_step, by_work)) = plt.subplots(2, 2, figsize=(14, 11), layout="constrained")
    draw_map(left, figure, fast=options.fast)
    draw_conditions(by_step, by_work, fast=options.fast)
    right.axis("off")
    marks = [
        Line2D([], [], color="black", marker="D", mfc="none", ls="none", label="alternating LEAD, the law"),
        Line2D([], [], color="black", ls=":", lw=2, label="lower bound, products with A and Aᵀ in pairs"),
    ]
    legend_of(
        right,
        COLOURS,
        marks,
        loc="center",
        fontsize=10,
        title="lower panels; in stripes: the same curve; not drawn: does not shrink",
    )
    save(figure, options.output, "regime")


if __name__ == "__main__":
    main()

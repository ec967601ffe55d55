"""Where alternating LEAD is fast: its stability map, and its best rate against the condition number of the game.

    python examples/talk/regime.py [--output runs/talk] [--fast]

Left: bilinear games with σ in [0.2, 1]; the radius at the best step size, over momentum β and coupling α/η. Right: game
steps to shrink the distance by 10⁶, every rule at its best settings, beside the law for alternating LEAD and the lower
bound for one product with A and one with Aᵀ per step. A minute on one core.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save

from lightning_lead.analysis import Spectrum, alternating_lead_law, best_settings, stability_region
from lightning_lead.rules import LEAD

RIVALS = {
    "alternating momentum": "#a6761d",
    "optimistic gradient": "#7570b3",
    "alternating optimistic gradient with momentum": "#17becf",
    "extragradient, two step sizes": "#1b9e77",
    "lookahead, 5 alternating steps": "#1f78b4",
    "simultaneous LEAD": "#f4a582",
}


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
    axes.contour(momenta, couplings, radius, levels=[1 - 1e-6], colors="black", linewidths=1.5)
    law = alternating_lead_law(0.2, 1.0)
    line = torch.linspace(0.01, 0.96, 200)
    axes.plot(line, line.sqrt() / (1 - line.sqrt()), color="white", lw=1.5, ls="--", label="α/η = √β / (1 − √β)")
    axes.plot(
        [law.beta], [law.coupling], "*", color="#d62728", ms=17, mec="white", label=f"the law: ρ = {law.rate:.3f}"
    )
    axes.plot(
        [0.0], [1.0], "o", color="white", mec="black", ms=8, clip_on=False, label="optimistic gradient (β = 0, a = 1)"
    )
    axes.set(yscale="log", xlabel="momentum β", ylabel="coupling α/η", ylim=(0.1, 30), xlim=(0, 0.96))
    axes.set_title(
        "Alternating LEAD: radius at the best step size\nbilinear game, σ in [0.2, 1]; black: the edge of shrinking"
    )
    legend = axes.legend(loc="lower right", fontsize=8, facecolor="#555555", labelcolor="white", framealpha=0.9)
    legend.set_zorder(10)
    figure.colorbar(shown, ax=axes, label="spectral radius per game step")


def draw_conditions(axes: plt.Axes, *, fast: bool) -> None:
    """6b: game steps against κ."""
    kappas = torch.logspace(math.log10(1.5), 2, 3 if fast else 10, dtype=torch.float64).tolist()
    search = {"grid": 5 if fast else None, "starts": 1 if fast else 4}

    def steps(radius: float) -> float:
        return math.log(1e-6) / math.log(radius) if radius < 1 - 1e-9 else math.nan

    for name, colour in RIVALS.items():
        # lookahead turns by k times an angle, which can hide between few singular values
        points = 201 if name.startswith("lookahead") else 13
        values = [steps(best_settings(name, Spectrum.between(1.0, k, points=points), **search).radius) for k in kappas]
        dashed = "--" if name.endswith("with momentum") else "-"
        axes.plot(kappas, values, color=colour, lw=1.8, ls=dashed, label=name, zorder=4 if dashed == "--" else 2)
    found = [steps(best_settings("alternating LEAD", Spectrum.between(1.0, k), **search).radius) for k in kappas]
    axes.plot(kappas, found, "o", color="#d62728", ms=6, label="alternating LEAD, searched", zorder=6)
    law = [steps(alternating_lead_law(1.0, k).rate) for k in kappas]
    axes.plot(kappas, law, color="#d62728", lw=2.5, label="alternating LEAD, the law", zorder=3)
    axes.plot(
        kappas,
        [steps((k - 1) / (k + 1)) for k in kappas],
        color="black",
        ls=":",
        lw=2,
        label="lower bound per A, Aᵀ pair",
    )
    axes.set(
        xscale="log", yscale="log", xlabel="condition number κ = L/m", ylabel="game steps to shrink the distance by 10⁶"
    )
    axes.set_title("Bilinear games: best settings of every rule")
    axes.grid(alpha=0.3, which="major")
    axes.set_ylim(5, 4e7)  # room for the legend
    axes.legend(fontsize=8, loc="upper left")


def main() -> None:
    """Both panels in one figure."""
    options = parser_of(__doc__).parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5.6), layout="constrained")
    draw_map(left, figure, fast=options.fast)
    draw_conditions(right, fast=options.fast)
    save(figure, options.output, "regime")


if __name__ == "__main__":
    main()

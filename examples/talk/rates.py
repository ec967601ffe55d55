"""Best rates of game optimizers on quadratic games, against adversarialness; and the spectra behind such rates.

    python examples/talk/rates.py [--output runs/talk] [--fast]

The first figure has game steps on the left, and gradients and Hessian products on the right. Six minutes on one core.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import torch
from contenders import CGD_NAME, COLOURS, LEAD_NAME, best_of_all, evaluations, game_steps, solver_evaluations
from drawing import legend_of, parser_of, save, striped
from matplotlib.figure import Figure

from lightning_lead.analysis import Spectrum, alternating_lead_law, best_settings, eigenvalues
from lightning_lead.rules import LEAD, GradientPlay


def draw_adversarialness(*, fast: bool) -> Figure:
    """Figure 5: what it takes to shrink the distance by 10⁶, between two minimisers and a bilinear game."""
    levels = torch.linspace(0.05, 1.0, 2 if fast else 20).tolist()
    sigma = torch.logspace(math.log10(0.2), 0, 9, dtype=torch.float64)
    found = [best_of_all(Spectrum(level * sigma, 1 - level), fast=fast) for level in levels]
    steps = {name: [game_steps(best[name].radius) for best in found] for name in found[0]}
    work = {name: [evaluations(best[name]) for best in found] for name in found[0]}
    work[CGD_NAME] = [solver_evaluations(0.2 * level, level, 1 - level, fast=fast) for level in levels]
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6), layout="constrained", sharey=True)
    for axes, curves in ((left, steps), (right, work)):
        striped(axes, levels, curves, COLOURS)
        axes.plot(levels, curves[LEAD_NAME], color=COLOURS[LEAD_NAME], lw=5, alpha=0.3, zorder=1)
        axes.set(
            yscale="log", xlim=(0, 1), ylim=(1, 2e4), xlabel="adversarialness (0: two minimisers, 1: bilinear game)"
        )
        axes.grid(alpha=0.3, which="major")
    left.set(ylabel="to shrink the distance by 10⁶")
    left.set_title("game steps (competitive gradient descent: any)", fontsize=11)
    right.set_title("gradients and Hessian products; dots: the fewest, within 1 %", fontsize=11)
    for k, level in enumerate(levels):
        fewest = min(curve[k] for curve in work.values() if math.isfinite(curve[k]))
        name = next(name for name, curve in work.items() if curve[k] <= 1.01 * fewest)
        right.plot(level, work[name][k], "o", color=COLOURS[name], mec="black", mew=0.6, zorder=6)
    legend_of(figure, COLOURS)
    figure.suptitle(
        "Every rule at its best settings, on games of Jacobian (1 − level)·I + level·coupling, σ in [0.2, 1]; "
        "in stripes: the same curve"
    )
    return figure


def draw_spectra(*, fast: bool) -> Figure:
    """Eigenvalues of the update operators in the complex plane, each rule at its best settings."""
    spectrum = Spectrum(torch.linspace(0.2, 1.0, 9, dtype=torch.float64), 0.0)
    law = alternating_lead_law(0.2, 1.0)
    grid = {"grid": 5, "starts": 1, "tolerance": 1e-3} if fast else {}
    searched = ("optimistic gradient", "extragradient, two step sizes")
    panels = [("gradient play, η = 0.3", GradientPlay(), {"lr": 0.3, "play": "simultaneous"}, "#666666")]
    for best in (best_settings(name, spectrum, **grid) for name in searched):
        panels.append((best.family, best.rule, {"lr": best.settings["lr"]}, COLOURS[best.family]))
    panels.append((LEAD_NAME, LEAD(law.coupling), {"lr": law.eta, "momentum": law.beta}, COLOURS[LEAD_NAME]))
    figure, every = plt.subplots(1, 4, figsize=(14, 4.2), layout="constrained", sharey=True)
    turn = torch.linspace(0, 2 * math.pi, 400)
    for axes, (name, rule, settings, colour) in zip(every, panels, strict=True):
        z = eigenvalues(rule, sigma=spectrum.sigma, **settings).reshape(-1)
        radius = float(z.abs().max())
        axes.plot(turn.cos(), turn.sin(), color="black", lw=1)
        axes.plot(radius * turn.cos(), radius * turn.sin(), color=colour, lw=1, ls="--")
        axes.scatter(z.real, z.imag, s=22, color=colour, alpha=0.8, zorder=3, linewidths=0)
        axes.axhline(0, color="black", lw=0.4)
        axes.axvline(0, color="black", lw=0.4)
        axes.set(
            aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), xlabel="Re z", title=f"{name}: ρ = {radius:.3f}"
        )
    every[0].set_ylabel("Im z")
    figure.suptitle(
        "Eigenvalues of one game step on the bilinear game, σ in [0.2, 1], at best settings but for the first; solid: "
        "unit circle, dashed: ρ"
    )
    return figure


def main() -> None:
    """Both figures."""
    options = parser_of(__doc__).parse_args()
    for name, draw in (("adversarialness", draw_adversarialness), ("spectra", draw_spectra)):
        save(draw(fast=options.fast), options.output, name)


if __name__ == "__main__":
    main()

"""Best rates of game optimizers on quadratic games: against adversarialness, against the condition number, as spectra.

    python examples/talk/rates.py [--output runs/talk] [--fast]      two figures
    python examples/talk/rates.py --table                            the tables of docs/games.md, in Markdown

Every rate is the smallest spectral radius that a search over the rule's hyperparameters finds, on its closed form; see
`lightning_lead.analysis.search`. Two minutes on one core for the figures, five for the tables.
"""

from __future__ import annotations

import itertools
import math

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from matplotlib.figure import Figure

from lightning_lead.analysis import (
    FAMILIES,
    BestSettings,
    Family,
    Match,
    Spectrum,
    alternating_lead_law,
    best_settings,
    eigenvalues,
)
from lightning_lead.games import QuadraticGame
from lightning_lead.rules import CGD, LEAD, GradientPlay, LookaheadMinmax

COLOURS = {
    "alternating gradient play": "#999999",
    "alternating momentum": "#a6761d",
    "optimistic gradient": "#7570b3",
    "alternating optimistic gradient": "#b3aed6",
    "alternating optimistic gradient with momentum": "#17becf",
    "extragradient, two step sizes": "#1b9e77",
    "competitive gradient descent": "#e6ab02",
    "consensus": "#66a61e",
    "symplectic adjustment": "#b2df8a",
    "level-4 play": "#fb9a99",
    "lookahead, alternating": "#1f78b4",
    "simultaneous LEAD": "#f4a582",
    "alternating LEAD": "#d62728",
}
CGD_NAME = "competitive gradient descent"


def families(*, fast: bool) -> list[Family]:
    """What is searched; lookahead with several numbers of inner steps."""
    lookahead = FAMILIES["lookahead, 5 alternating steps"]
    counts = (5,) if fast else (2, 5, 10, 20, 40)
    return [
        *(family for name, family in FAMILIES.items() if name != lookahead.name),
        *(
            lookahead._replace(name="lookahead, alternating", build=lambda s, k=k: LookaheadMinmax(k, alpha=s["alpha"]))
            for k in counts
        ),
    ]


def best_of_all(spectrum: Spectrum, *, fast: bool, dense: Spectrum | None = None) -> dict[str, BestSettings]:
    """The best settings of every family, in the order of COLOURS.

    Lookahead turns by k times an angle, which can hide between singular values: it is searched on the dense spectrum.
    """
    found: dict[str, BestSettings] = {}
    for family in families(fast=fast):
        hides = dense is not None and family.name.startswith("lookahead")
        best = best_settings(family, dense if hides else spectrum, grid=5 if fast else None, starts=1 if fast else 4)
        found[family.name] = min(best, found.get(family.name, best), key=lambda b: b.radius)
    return {name: found[name] for name in COLOURS}


def bound(smallest: float, largest: float, curvature: float) -> float:
    """The rate that no method beats per product with A and one with Aᵀ; see docs/games.md."""
    root = math.sqrt((largest**2 + curvature**2) / (smallest**2 + curvature**2))
    return (root - 1) / (root + 1)


def solver_work(kappa: float, curvature: float, *, fast: bool) -> tuple[float, float]:
    """Competitive gradient descent's best rate per two evaluations, its solver's included, and the step size for it.

    Played, because the conjugate gradients' iterations depend on the data: 400 singular values in [1, κ].
    """
    sigma = torch.logspace(0, math.log10(kappa), 20 if fast else 400, dtype=torch.float64)
    game = QuadraticGame(torch.diag(sigma), curvature=curvature)
    results = []
    for factor, tolerance in itertools.product((1.0,) if fast else (1.0, 10.0, 1e2, 1e3, 1e4), (1e-1, 1e-2, 1e-4)):
        rule = CGD("cg", tolerance=tolerance, max_iterations=4000)
        start = game.random_point(seed=0)
        match = Match(rule, game, lr=factor / kappa, start=start)
        pairs, first = 0.0, match.distance
        while match.distance > 1e-6 * first and pairs < 2e3:
            match.step()
            pairs = sum(match.evaluations.values()) / 2
        results.append(((match.distance / first) ** (1 / pairs), factor))
    return min(results)


def table(*, fast: bool) -> str:
    """Rates per game step, and per two evaluations, in Markdown."""
    lines = []
    for curvature in (0.0,) if fast else (0.0, 0.1):
        kappas = (2, 5) if fast else (2, 5, 10, 50, 100)
        found = {}
        for k in kappas:
            dense = Spectrum.between(1.0, float(k), curvature, points=1601)
            found[k] = best_of_all(Spectrum.between(1.0, float(k), curvature), fast=fast, dense=dense)
            for name, best in found[k].items():  # what counts is all of [m, L]
                extra = {"momentum": best.settings["momentum"]} if "momentum" in best.settings else {}
                radius = dense.radius(best.rule, lr=best.settings["lr"], play=best.play, **extra)
                found[k][name] = best._replace(radius=radius)
        bounds = {k: bound(1.0, float(k), curvature) for k in kappas}
        solve = {k: solver_work(float(k), curvature, fast=fast)[0] for k in kappas}
        head = "| " + " | ".join(["h = 0" if not curvature else f"h = {curvature:g} m", *(f"κ = {k}" for k in kappas)])
        for unit in ("per game step", "per two evaluations"):
            lines += [f"{head} |".replace(" | κ", f", {unit} | κ", 1), "|---" * (len(kappas) + 1) + "|"]
            for name in COLOURS:
                cells = []
                for k in kappas:
                    best = found[k][name]
                    if name == CGD_NAME:
                        cells.append("any" if unit == "per game step" else f"{solve[k]:.4f}")
                        continue
                    rate = best.radius if unit == "per game step" else best.radius ** (2 / best.evaluations)
                    cells.append(f"{rate:.4f}" if rate < 1 - 5e-7 else "1")
                mark = f"**{name}**" if name == "alternating LEAD" else name
                evaluations = found[kappas[0]][name].evaluations
                lines.append(f"| {mark} ({evaluations or 'solver'}) | " + " | ".join(cells) + " |")
            law = [alternating_lead_law(1.0, float(k), curvature).rate for k in kappas]
            law = law if unit == "per game step" else [r**0.5 for r in law]
            lines.append("| the law for alternating LEAD | " + " | ".join(f"{r:.4f}" for r in law) + " |")
            if unit == "per two evaluations":
                lines.append("| lower bound | " + " | ".join(f"{bounds[k]:.4f}" for k in kappas) + " |")
            lines.append("")
    return "\n".join(lines)


def draw_adversarialness(*, fast: bool) -> Figure:
    """Figure 5: game steps to shrink the distance by 10⁶, between two minimisers and a bilinear game."""
    levels = torch.linspace(0.05, 1.0, 4 if fast else 20).tolist()
    sigma = torch.logspace(math.log10(0.2), 0, 9, dtype=torch.float64)
    steps: dict[str, list[float]] = {name: [] for name in COLOURS}
    for level in levels:
        spectrum = Spectrum(level * sigma, 1 - level)
        for name, best in best_of_all(spectrum, fast=fast).items():
            steps[name].append(
                math.log(1e-6) / math.log(max(best.radius, 1e-99)) if best.radius < 1 - 1e-7 else math.nan
            )
    figure, axes = plt.subplots(figsize=(9.5, 5.2), layout="constrained")
    for name, values in steps.items():
        if name != CGD_NAME:  # as fast as its step is long: the game is solved in its solver
            heavy = name == "alternating LEAD"
            style = {"linestyle": "--"} if name.endswith("with momentum") else {}
            axes.plot(
                levels, values, color=COLOURS[name], lw=3 if heavy else 1.6, label=name, zorder=5 + heavy, **style
            )
    axes.set(
        yscale="log",
        xlabel="adversarialness: 0 = two minimisers that do not meet, 1 = bilinear game",
        ylabel="game steps to shrink the distance by 10⁶",
        title="Best rate of every rule, J = (1 − level)·I + level·coupling, σ in [0.2, 1]",
        xlim=(0, 1),
        ylim=(1, 3e3),
    )
    axes.grid(alpha=0.3, which="major")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def draw_spectra(*, fast: bool) -> Figure:
    """Eigenvalues of the update operators in the complex plane, each rule at its best settings."""
    spectrum = Spectrum(torch.linspace(0.2, 1.0, 9, dtype=torch.float64), 0.0)
    law = alternating_lead_law(0.2, 1.0)
    grid = {"grid": 5 if fast else None, "starts": 1 if fast else 4}
    optimistic = best_settings("optimistic gradient", spectrum, **grid)
    extra = best_settings("extragradient, two step sizes", spectrum, **grid)
    panels = [
        ("gradient play", GradientPlay(), {"lr": 0.3, "play": "simultaneous"}, "#666666"),
        ("optimistic gradient", optimistic.rule, {"lr": optimistic.settings["lr"]}, "#7570b3"),
        ("extragradient", extra.rule, {"lr": extra.settings["lr"]}, "#1b9e77"),
        ("alternating LEAD", LEAD(law.coupling), {"lr": law.eta, "momentum": law.beta}, "#d62728"),
    ]
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
    figure.suptitle("Eigenvalues of one game step on the bilinear game, σ in [0.2, 1]; solid: unit circle, dashed: ρ")
    return figure


def main() -> None:
    """Figures, or the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--table", action="store_true", help="print the tables of docs/games.md instead")
    options = parser.parse_args()
    if options.table:
        print(table(fast=options.fast))
        return
    for name, draw in (("adversarialness", draw_adversarialness), ("spectra", draw_spectra)):
        save(draw(fast=options.fast), options.output, name)


if __name__ == "__main__":
    main()

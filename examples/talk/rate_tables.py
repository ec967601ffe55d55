"""The tables of docs/games.md, in Markdown: best rates of game optimizers on quadratic games.

    python examples/talk/rate_tables.py [--fast]

Per game step and per two evaluations, for condition numbers κ = L/m and curvatures h in units of m; then how many game
steps matches by the law take, and how many the rate alone says. Twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import math

import torch
from contenders import CGD_NAME, COLOURS, LEAD_NAME, REDUCTION, SHRINKS, best_of_all, game_steps, solver_evaluations

from lightning_lead.analysis import Match, Spectrum, alternating_lead_law
from lightning_lead.games import BilinearGame
from lightning_lead.rules import LEAD

UNITS = ("per game step", "per two evaluations")


def bound(largest: float, curvature: float) -> float:
    """The rate that no method beats per product with A and one with Aᵀ, for m = 1; see docs/games.md."""
    root = math.sqrt((largest**2 + curvature**2) / (1 + curvature**2))
    return (root - 1) / (root + 1)


def cell(rate: float) -> str:
    """Four digits, or 1 where nothing shrinks."""
    return f"{rate:.4f}" if rate < SHRINKS else "1"


def tables(curvature: float, kappas: tuple[float, ...], *, fast: bool) -> list[str]:
    """Both tables of one curvature."""
    found = [best_of_all(Spectrum.between(1.0, k, curvature), fast=fast) for k in kappas]
    solver = [REDUCTION ** (2 / solver_evaluations(1.0, k, curvature, fast=fast)) for k in kappas]
    law = [alternating_lead_law(1.0, k, curvature).rate for k in kappas]
    head = "h = 0" if not curvature else "h = m" if curvature == 1 else f"h = {curvature:g} m"
    lines = []
    for unit in UNITS:
        lines += [
            f"| {head}, {unit} | " + " | ".join(f"κ = {k:g}" for k in kappas) + " |",
            "|---" * (len(kappas) + 1) + "|",
        ]
        for name in COLOURS:
            if name == CGD_NAME:
                cells, count = ["any" if unit == UNITS[0] else cell(rate) for rate in solver], "solver"
            else:
                row = [best[name] for best in found]
                rates = [b.radius if unit == UNITS[0] else (b.rate_per_evaluation or 1.0) ** 2 for b in row]
                cells, count = [cell(rate) for rate in rates], str(row[0].evaluations)
            shown = f"**{name}**" if name == LEAD_NAME else name
            lines.append(f"| {shown} ({count}) | " + " | ".join(cells) + " |")
        lines.append("| the law for alternating LEAD | " + " | ".join(map(cell, law)) + " |")  # two evaluations a step
        if unit == UNITS[1]:
            lines.append("| lower bound | " + " | ".join(cell(bound(k, curvature)) for k in kappas) + " |")
        lines.append("")
    return lines


def played(kappa: float) -> tuple[int, int]:
    """Game steps for six digits by the law, on twenty singular values in [1, κ], and what its rate alone says."""
    law = alternating_lead_law(1.0, kappa)
    game = BilinearGame.from_singular_values(
        torch.logspace(0, math.log10(kappa), 20, dtype=torch.float64).tolist(), seed=0
    )
    match = Match(
        LEAD(law.coupling),
        game,
        lr=law.eta,
        play="alternating",
        optimizer=lambda groups: torch.optim.SGD(groups, lr=law.eta, momentum=law.beta),
        start=game.random_point(seed=0),
    )
    first, steps = match.distance, 0
    while match.distance > REDUCTION * first:
        match.step()
        steps += 1
    return steps, math.ceil(game_steps(law.rate))


def main() -> None:
    """Prints as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="two games and a coarse search, to see that it runs")
    fast = parser.parse_args().fast
    torch.set_num_threads(1)
    kappas = (2.0, 5.0) if fast else (2.0, 5.0, 10.0, 50.0, 100.0)
    for curvature in (0.0,) if fast else (0.0, 0.1, 1.0):
        print("\n".join(tables(curvature, kappas, fast=fast)), flush=True)
    for kappa in kappas:
        steps, said = played(kappa)
        print(
            f"bilinear game, κ = {kappa:g}: alternating LEAD by the law took {steps} game steps for six digits, "
            f"its rate alone says {said}"
        )


if __name__ == "__main__":
    main()

"""Does any setting of alternating LEAD beat its law? A global search over step size, coupling and momentum.

    python examples/law_search.py [--fast]

For each condition number κ and curvature h, in units of the smallest singular value m: differential evolution over
η in [1e-4, 4] / L, α/η in [1e-3, 300] and β in [0, 0.999], then Nelder and Mead from what it found, and from the law's
settings as well; the radius is the largest one of nine singular values in [m, L]. Prints, in Markdown, the rate of the
law; the best that was found minus that, where below zero the law would be beaten; and the same for the evolution by
itself, which does not know the law, to see that it came near. Four minutes on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy import optimize

from lightning_lead.analysis import Spectrum, alternating_lead_law
from lightning_lead.rules import LEAD

KAPPAS = (1.5, 2.0, 5.0, 10.0, 30.0, 100.0)
CURVATURES = (0.0, 0.1, 1.0, 3.0)  # h/m


def best_found(kappa: float, curvature: float, *, generations: int) -> tuple[float, float]:
    """The smallest radius over all settings with β ≥ 0, m = 1; and what evolution and its refinement found alone."""
    spectrum = Spectrum.between(1.0, kappa, curvature, points=9)

    def radius(place: Sequence[float] | Any) -> float:
        log_lr, log_coupling, beta = (float(p) for p in place)
        if not 0 <= beta < 1:
            return 10.0
        rule, lr = LEAD(math.exp(min(log_coupling, 20.0))), math.exp(min(log_lr, 20.0))
        return min(spectrum.radius(rule, lr=lr, play="alternating", momentum=beta), 10.0)

    ranges = [(math.log(1e-4 / kappa), math.log(4 / kappa)), (math.log(1e-3), math.log(300)), (0.0, 0.999)]
    found = optimize.differential_evolution(radius, ranges, seed=1, maxiter=generations, tol=1e-10, polish=False)
    law = alternating_lead_law(1.0, kappa, curvature)
    options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 1000}

    def refined(start: Sequence[float] | Any) -> float:
        return float(optimize.minimize(radius, start, method="Nelder-Mead", options=options).fun)

    alone = min(float(found.fun), refined(found.x))
    return min(alone, refined([math.log(law.eta), math.log(law.coupling), law.beta])), alone


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="two games and few generations, to see that it runs")
    fast = parser.parse_args().fast
    torch.set_num_threads(1)
    kappas, curvatures = (KAPPAS[1:2], CURVATURES[::2]) if fast else (KAPPAS, CURVATURES)
    print("| law, best − law, evolution − law | " + " | ".join(f"h = {h:g} m" for h in curvatures) + " |")
    print("|---" * (len(curvatures) + 1) + "|")
    for kappa in kappas:
        cells = []
        for h in curvatures:
            law = alternating_lead_law(1.0, kappa, h).rate
            best, alone = best_found(kappa, h, generations=20 if fast else 300)
            cells.append(f"{law:.4f}, {best - law:+.0e}, {alone - law:+.0e}")
        print(f"| κ = {kappa:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

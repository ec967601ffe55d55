"""Eight Gaussians: exact cross term against one gradient at the extrapolated opponent, by coupling, in ten seeds.

    python examples/talk/eight_gaussians.py [--output runs/talk] [--seeds 0 1 2 ...] [--jobs 2] [--fast]

The recipe's networks and settings (β₁ = 0.5), 1,250 game steps, modes counted every 50. Prints when all eight are first
there, in game steps and in evaluations (a gradient of one player is one, a Hessian product too), in how many seeds, and
the share of good samples, within 3σ of a mode, at the end. Kept runs are not made again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from drawing import parser_of
from training import RECIPES, add_jobs, quiet, results_of

from lightning_lead.compare import Entry, plan_runs

EIGHT = 8
METHODS = {
    "Adam": "AlternatingGDA",
    "OptimisticAdam": "OptimisticAdam",
    **{
        f"LEAD {cross}, a = {a}": f"LEAD(coupling={a!r}, cross={cross!r})"
        for cross in ("exact", "extrapolated")
        for a in (1.0, "auto", 2.0, 3.0)
    },
}


def row(label: str, results: Sequence[Mapping[str, Any]]) -> str:
    """A method's line of the table. A seed that failed has found nothing, and none of its samples is good."""
    done = [result for result in results if "history" in result]
    firsts = [
        next((record["step"] for record in result["history"] if record["values"]["modes"] >= EIGHT), math.inf)
        for result in done
    ] + [math.inf] * (len(results) - len(done))
    ends = [result["history"][-1]["values"] for result in done]
    good = [end["high_quality"] for end in ends] + [0.0] * (len(results) - len(done))
    modes = [end["modes"] for end in ends] + [0.0] * (len(results) - len(done))
    first = statistics.median(firsts)
    evaluations = statistics.fmean(sum(r["evaluations_per_step"].values()) for r in done) if done else math.nan
    when = [f"{first:,.0f}", f"{first * evaluations:,.0f}"] if math.isfinite(first) else ["–", "–"]
    found = f"{sum(map(math.isfinite, firsts))} of {len(firsts)}"
    stays = f"{sum(m >= EIGHT for m in modes)} of {len(modes)}"
    return "| " + " | ".join([label, *when, found, stays, f"{_spread(modes, 1)}", f"{_spread(good, 2)}"]) + " |"


def _spread(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def main() -> None:
    """Play, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    add_jobs(parser)
    options = parser.parse_args()
    quiet()
    entries = [Entry(label, game, ()) for label, game in METHODS.items()]
    steps, every, folder = 1250, 50, options.output / "eight_gaussians"
    if options.fast:
        steps, every, folder, options.seeds = 4, 2, options.output / "eight_gaussians_fast", [0]
        entries = entries[1:3]
    extra = [f"--trainer.max_steps={steps}", f"--every={every}"]
    runs = plan_runs(entries, RECIPES / "gaussians.yaml", options.seeds, folder, extra)
    results = results_of(runs, jobs=options.jobs)
    head = [
        "method",
        "all eight first there, step (median)",
        "evaluations by then",
        "seeds",
        "seeds with all at the end",
    ]
    head += ["modes at the end", "good samples at the end"]
    print("| " + " | ".join(head) + " |", "|---" * len(head) + "|", sep="\n")
    for entry in entries:
        print(row(entry.label, [result for run, result in zip(runs, results, strict=True) if run.entry is entry]))


if __name__ == "__main__":
    main()

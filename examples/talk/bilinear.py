"""LEAD against the others on the bilinear game: paths and distances, each at one setting, LEAD also at that of the law.

    python examples/talk/bilinear.py [--output runs/talk] [--fast]

Competitive gradient descent is not drawn: with a long step its solver ends the game at once; see rates.py.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save

from lightning_lead import LEADStrategy
from lightning_lead.analysis import simulate
from lightning_lead.games import BilinearGame
from lightning_lead.rules import (
    LEAD,
    AbstractGameRule,
    ConsensusOptimization,
    Extragradient,
    GradientPlay,
    LookaheadMinmax,
    OptimisticGradient,
    PolyakMomentum,
)

SINGULAR_VALUES = [0.2, 1.0]
SETTINGS, SGD = LEADStrategy.for_spectrum(smallest=0.2, largest=1.0)


class Entry(NamedTuple):
    """One method with its settings."""

    label: str
    rule: AbstractGameRule
    lr: float
    play: str
    colour: str
    momentum: float = 0.0
    dashes: str | tuple[int, tuple[float, ...]] = "-"


ENTRIES = [
    Entry("descent-ascent, simultaneous", GradientPlay(), 0.1, "simultaneous", "#bbbbbb"),
    Entry("descent-ascent, alternating", GradientPlay(), 0.5, "alternating", "#777777"),
    Entry("momentum −0.5, alternating", PolyakMomentum(-0.5), 1.0, "alternating", "#a6761d"),
    Entry("optimistic gradient", OptimisticGradient(), 0.5, "simultaneous", "#7570b3"),
    Entry("extragradient", Extragradient(), 0.7, "simultaneous", "#1b9e77"),
    Entry("consensus, γ = 1", ConsensusOptimization(1.0), 0.7, "simultaneous", "#66a61e"),
    Entry("lookahead, k = 5", LookaheadMinmax(5, alpha=0.5), 0.5, "alternating", "#e6ab02"),
    Entry("LEAD, a = 1, β = 0", LEAD(1.0), 0.5, "simultaneous", "#d62728", dashes=(0, (3, 3))),
    Entry("LEAD, alternating, by the law", SETTINGS.rule, SGD.lr, "alternating", "#d62728", SGD.momentum),
]


def main() -> None:
    """Play, and draw."""
    options = parser_of(__doc__).parse_args()
    steps = 20 if options.fast else 300
    planar = BilinearGame([[1.0]])
    game = BilinearGame.from_singular_values(SINGULAR_VALUES, seed=1)
    figure, (paths, distances) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for entry in ENTRIES:
        settings = {
            "lr": entry.lr,
            "play": entry.play,
            "optimizer": lambda groups, beta=entry.momentum: torch.optim.SGD(groups, momentum=beta),
        }
        style = {"color": entry.colour, "ls": entry.dashes, "linewidth": 2.4 if "law" in entry.label else 1.3}
        short = simulate(entry.rule, planar, steps=min(steps, 40), start=planar.point([1.0], [1.0]), **settings)
        paths.plot(*short.points.T, **style)
        long = simulate(entry.rule, game, steps=steps, **settings)
        relative = [max(d, 1e-16) / long.distances[0] for d in long.distances]
        print(f"{entry.label:34}{relative[-1]:.10e} after {steps} game steps")
        label = f"{entry.label} (on the optimistic gradient)" if entry.dashes != "-" else entry.label
        distances.semilogy(relative, label=label, **style)
    paths.plot(0, 0, "k*", markersize=10)
    paths.set(xlabel="x", ylabel="y", title="xy: 40 game steps from (1, 1)", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    paths.set_aspect("equal")
    distances.set(
        xlabel="game steps",
        ylabel="distance to the equilibrium, relative",
        title="xᵀAy with singular values 0.2 and 1",
        ylim=(1e-12, 1e2),
    )
    figure.legend(loc="outside right center", fontsize="small")
    save(figure, options.output, "bilinear")


if __name__ == "__main__":
    main()

"""Domain-adversarial training on two moons, as it goes: where a classifier of labelled moons divides the plane.

    python examples/talk/moons.py [--output runs/talk] [--seed 0]

Labelled moons are dots, and moons turned by 35°, whose labels nobody has seen, are crosses; the shading is the
classifier's probability, the black line where it is a half. Rows are the same networks from the same start: without an
adversary (λ = 0), and with one (λ = 1) by plain play and by LEAD, moved by Adam at 0.02 with β₁ of 0 and 0.9. Draws

    moons.png       the plane after 50, 150, 300 and 600 game steps, and the accuracy on turned moons

Reference: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, figure 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from pytorch_lightning import Callback, seed_everything
from torch import Tensor
from training import quiet, silent_trainer

from lightning_lead import DANNModule, MoonsDataModule
from lightning_lead.networks import MLP

STEPS = (50, 150, 300, 600)
SIDE = 120  # pixels of the shading
EDGES = (-2.0, 3.0, -2.0, 2.5)  # of the plane that is drawn


class Row(NamedTuple):
    """One way to train."""

    game: str
    momentum: float
    weight: float = 1.0


ROWS = {
    "no adversary, β₁ = 0.9": Row("AlternatingGDA", 0.9, 0.0),
    "plain play, β₁ = 0": Row("AlternatingGDA", 0.0),
    "plain play, β₁ = 0.9": Row("AlternatingGDA", 0.9),
    "LEAD exact, β₁ = 0.9": Row("LEAD(cross='exact')", 0.9),
}


class Looks(Callback):
    """The shading, and the accuracy on turned moons, after some game steps."""

    def __init__(self, grid: Tensor, turned: Any, steps: tuple[int, ...]) -> None:
        self.grid, self.turned, self.steps = grid, turned, steps
        self.shades: list[Tensor] = []
        self.accuracies: list[float] = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step in self.steps:
            self.shades.append(pl_module(self.grid).sigmoid().view(SIDE, SIDE))
            right = (pl_module(self.turned.inputs).squeeze(1) > 0).long() == self.turned.labels
            self.accuracies.append(float(right.float().mean()))


def grid() -> Tensor:
    """The points of the shading, (SIDE², 2), row by row from below."""
    left, right, low, high = EDGES
    ys, xs = torch.meshgrid(torch.linspace(low, high, SIDE), torch.linspace(left, right, SIDE), indexing="ij")
    return torch.stack([xs, ys], dim=2).view(-1, 2)


def trained(row: Row, data: MoonsDataModule, seed: int, steps: tuple[int, ...]) -> Looks:
    """The looks at a run."""
    seed_everything(seed, verbose=False)
    module = DANNModule(
        MLP(2, width=32),
        MLP(32, 1, depth=0),
        MLP(32, 1, width=32),
        weight=row.weight,
        game=row.game,
        optimizer=lambda groups: torch.optim.Adam(groups, betas=(row.momentum, 0.999)),
        learning_rates=0.02,
    )
    looks = Looks(grid(), data.samples()[data.held_out], steps)
    silent_trainer(steps[-1], looks).fit(module, datamodule=data)
    return looks


def main() -> None:
    """Train, and draw."""
    parser = parser_of(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quiet()
    steps = (1, 2, 3, 4) if options.fast else STEPS
    figure, panels = plt.subplots(len(ROWS), len(steps), figsize=(2.6 * len(steps), 2.4 * len(ROWS)), squeeze=False)
    for (label, row), axes in zip(ROWS.items(), panels, strict=True):
        data = MoonsDataModule(angle=35.0, batch_size=64, seed=options.seed)
        looks = trained(row, data, options.seed, steps)
        print(label, *(f"{step}: {share:.3f}" for step, share in zip(steps, looks.accuracies, strict=True)), flush=True)
        for panel, shade, accuracy, step in zip(axes, looks.shades, looks.accuracies, steps, strict=True):
            panel.contourf(shade, levels=10, extent=EDGES, cmap="PuOr", vmin=0, vmax=1)
            panel.contour(shade, levels=[0.5], extent=EDGES, colors="black", linewidths=1)
            for (_, samples), mark in zip(data.samples().items(), (".", "x"), strict=True):
                few = slice(0, 150)
                at, classes = samples.inputs[few], samples.labels[few]
                panel.scatter(*at.T, c=classes, s=7, marker=mark, cmap="PuOr", vmin=-0.5, vmax=1.5, linewidths=0.7)
            panel.set(xticks=[], yticks=[], xlim=EDGES[:2], ylim=EDGES[2:])
            panel.set_title(f"{step} game steps, {accuracy:.0%}", fontsize=8)
        axes[0].set_ylabel(label, fontsize=8)
    figure.tight_layout()
    save(figure, options.output, "moons")


if __name__ == "__main__":
    main()

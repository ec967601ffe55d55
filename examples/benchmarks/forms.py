"""Is the difference form an approximation of the exact cross term? Cosine and ratio of lengths, by activation.

    python examples/benchmarks/forms.py [--steps 200] [--seeds 5]

Trains MLPs of width 256 on 8 Gaussians by LEAD-Adam, then compares own form and difference form on one more batch, for
the opponent's last move and for smaller ones in the same direction.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_lead import GaussiansDataModule, LeadGANModule, LEADStrategy
from lightning_lead._types import CrossForm
from lightning_lead.calculus import CrossTerm, GameOracle, PrivateNoise, Swap
from lightning_lead.calculus._players import inner, norm, weighted_sum
from lightning_lead.engine.losses import BatchLosses
from lightning_lead.networks import MLPDiscriminator, MLPGenerator

SCALES = [1.0, 0.1, 0.01, 0.001]


class LastMove(pl.Callback):
    """Keeps the weights that a step began with."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        """Copy them."""
        self.before = {name: [p.detach().clone() for p in players] for name, players in module.players().items()}


def compared(activation: str, objective: str, steps: int, seed: int) -> dict[tuple[str, float], tuple[float, float]]:
    """(player, scale) -> cosine and ratio of lengths, in float64."""
    torch.manual_seed(seed)
    networks = MLPGenerator(width=256, activation=activation), MLPDiscriminator(width=256, activation=activation)
    rates = {"generator_lr": 3e-4, "discriminator_lr": 3e-4}
    gan = LeadGANModule(*networks, objective=objective, game=LEADStrategy(), **rates).double()  # type: ignore[arg-type]
    points = GaussiansDataModule(num_points=256 * steps).reference_points().double()
    last = LastMove()
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[last],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, DataLoader(points, 256, shuffle=True))  # type: ignore[arg-type]
    live = {name: tuple(parameters) for name, parameters in gan.players().items()}
    (batch,) = gan.game_turns([points[:256]])[0].micro_batches
    evaluation = BatchLosses(gan, gan.wanted_losses, batch, 1, noise=PrivateNoise(), repeated=False)
    oracle = GameOracle(live, [evaluation], swap=Swap(gan, live))
    found = {}
    for player, opponent in (("discriminator", "generator"), ("generator", "discriminator")):
        moved = torch._foreach_sub([p.detach() for p in live[opponent]], last.before[opponent])
        gradient = oracle.gradient(player, at=live)

        def term(
            form: CrossForm, scale: float, player: str = player, moved: Any = moved, gradient: Any = gradient
        ) -> Any:
            cross = CrossTerm(1.0, tuple(scale * m for m in moved), form)
            return weighted_sum([(1.0, oracle.gradient(player, at=live, cross=cross)), (-1.0, gradient)])

        for scale in SCALES:
            exact, difference = term("own", scale), term("difference", scale)
            cosine = inner(exact, difference) / (norm(exact) * norm(difference))
            found[player, scale] = (float(cosine), float(norm(difference) / norm(exact)))
    return found


def main() -> None:
    """Print a Markdown table of medians over seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    print(
        f"| activation, loss, player | {' | '.join(f'{scale:g} Δ' for scale in SCALES)} |\n|---|{'---|' * len(SCALES)}"
    )
    for activation, objective in itertools.product(("relu", "tanh", "softplus"), ("non_saturating", "hinge")):
        runs = [compared(activation, objective, chosen.steps, seed) for seed in range(chosen.seeds)]
        for player in ("discriminator", "generator"):
            cells = []
            for scale in SCALES:
                cosine, ratio = (statistics.median(run[player, scale][i] for run in runs) for i in (0, 1))
                cells.append(f"{cosine:+.3f}, {ratio:.2f}×")
            print(f"| {activation}, {objective}, {player} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

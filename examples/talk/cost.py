"""What a game step costs by every rule, in counted FLOPs, on the networks of the digits recipe; log scale.

python examples/talk/cost.py [--output runs/talk] [--fast]
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
from drawing import parser_of, save
from torch.utils.data import DataLoader
from training import quiet

from lightning_lead import LeadGANModule
from lightning_lead.compare._flops import counted_flops
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator

GAMES = {
    "descent-ascent, alternating": "AlternatingGDA",
    "descent-ascent, simultaneous": "SimultaneousGDA",
    "Polyak momentum": "PolyakMomentum",
    "optimistic gradient": "OptimisticGradient",
    "OptimisticAdam": "OptimisticAdam",
    "νPI": "NuPI",
    "prediction": "Prediction",
    "Alex-GDA": "AlexGDA",
    "past extragradient": "PastExtragradient",
    "Lookahead-minmax": "LookaheadMinmax",
    "Adam, β₁ < 0": "NegativeAdam",
    "LEAD, exact": "LEAD",
    "LEAD, extrapolated": "LEAD(coupling=1.0, cross='extrapolated')",
    "LEAD, difference": "LEAD(coupling=1.0, cross='difference')",
    "ExtraAdam": "ExtraAdam",
    "level 2": "LevelK(level=2)",
    "ODE-GAN, Heun": "ODEGAN(scheme='heun')",
    "ODE-GAN, RK4": "ODEGAN(scheme='rk4')",
    "consensus": "ConsensusOptimization",
    "symplectic adjustment": "SymplecticGradientAdjustment",
    "CGD, 10 iterations": "CGD(tolerance=1e-30, max_iterations=10)",
    "ACGD, 10 iterations": "ACGD(tolerance=1e-30, max_iterations=10)",
}


def flops(game: str, width: int) -> float:
    """Of one game step, after three."""
    torch.manual_seed(0)
    sizes = {"channels": 1, "image_size": 8, "width": width}
    gan = LeadGANModule(DCGANGenerator(latent_dim=32, **sizes), DCGANDiscriminator(**sizes), game=game)
    counts: list[float] = []
    step = gan.training_step

    def counted(*batch: object) -> None:
        if len(counts) < 3:
            counts.append(0.0)
            return step(*batch)
        counts.append(counted_flops(lambda: step(*batch)))
        return None

    gan.training_step = counted
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=4,
        logger=False,
        log_every_n_steps=10**9,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, DataLoader(torch.rand(256, 1, 8, 8) * 2 - 1, 64))
    return counts[3]


def main() -> None:
    """Count, and draw."""
    options = parser_of(__doc__).parse_args()
    quiet()
    width, every = (4, 3) if options.fast else (24, 1)
    counts = {label: flops(game, width) for label, game in list(GAMES.items())[::every]}
    base = counts["descent-ascent, alternating"]
    rows = sorted(counts.items(), key=lambda item: -item[1])
    figure, axes = plt.subplots(figsize=(7.5, 6.5), layout="constrained")
    bars = axes.barh(
        [label for label, _ in rows],
        [count / base for _, count in rows],
        color=["#d62728" if label.startswith("LEAD") else "#8da0cb" for label, _ in rows],
    )
    axes.bar_label(bars, [f"{count / base:.2f}×" for _, count in rows], padding=3, fontsize="small")
    axes.set_xscale("log")
    axes.set(xlabel="FLOPs of a game step, relative to alternating descent-ascent", xlim=(0.5, 120))
    for label, count in reversed(rows):
        print(f"{label:32}{count / base:8.2f}×")
    save(figure, options.output, "cost")


if __name__ == "__main__":
    main()

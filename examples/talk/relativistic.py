"""A relativistic pairing loss with R1 and R2 on digits: does curvature remove the spin, or does a look ahead help?

    python examples/talk/relativistic.py [--output runs/talk] [--seeds 0 1 2] [--gamma 0.1] [--fast]

    L_D = E softplus(D(u) − D(x)) + (γ/2)·(E ‖∇D(x)‖² + E ‖∇D(u)‖²)
    L_G = E softplus(D(x) − D(u)),      u = G(z)

Networks, learning rates, β₂ and scores are those of `recipes/digits.yaml`. Prints FID after 500 game steps as a table
in Markdown: a row per method, a column per β₁; rows of γ = 0 have the same loss without penalties. Kept runs are not
made again.

Reference: Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline", NeurIPS 2024; the loss is from
Jolicoeur-Martineau, "The relativistic discriminator: a key element missing from standard GAN", ICLR 2019.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import torch
from drawing import parser_of
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor
from torch.nn.functional import softplus
from training import quiet

from lightning_lead import DivergenceError, GenerativeMetrics, GeneratorEMA, LeadGANModule
from lightning_lead._files import write_json
from lightning_lead.data import DigitsDataModule
from lightning_lead.features import DigitsClassifier
from lightning_lead.gan import GANBatch
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator
from lightning_lead.objectives import AbstractGradientPenalty

BETAS = (0.0, 0.5, 0.8)
METHODS = {
    "Adam": "AlternatingGDA",
    "OptimisticAdam": "OptimisticAdam",
    "LEAD extrapolated, auto": "LEAD(coupling='auto', cross='extrapolated')",
}


@final
@dataclass(frozen=True)
class BothEnds(AbstractGradientPenalty):
    """R1 + R2: (γ/2)·(E ‖∇D(x)‖² + E ‖∇D(u)‖²)."""

    looks_at_fakes: ClassVar[bool] = True
    weight: float = 0.1

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | None) -> Tensor:
        """Reals and fakes."""
        return torch.cat([real, fake])

    def price(self, squares: Tensor) -> Tensor:
        """γ‖∇D‖², because the mean is over twice as many points."""
        return self.weight * squares


class RelativisticGAN(LeadGANModule):
    """Each fake is compared with a real one, in both players' losses."""

    def wanted_losses(self, batch: GANBatch, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """The losses in `wanted` on one micro-batch."""
        fakes = self(batch.latents)
        ahead = self.discriminator(batch.real) - self.discriminator(fakes)  # of the reals, (m,)
        losses = {"generator": softplus(ahead).mean()}
        if "discriminator" in wanted:
            losses["discriminator"] = softplus(-ahead).mean()
            if self.penalty is not None:
                losses["discriminator"] += self.penalty(self.discriminator, batch.real, fakes)
        return {name: loss for name, loss in losses.items() if name in wanted}


class Setting(NamedTuple):
    """A cell of the table."""

    game: str
    gamma: float
    beta: float


def scores(setting: Setting, seed: int, steps: int, every: int, folder: Path) -> list[dict[str, Any]]:
    """FID along a run, which is made if it is not in the folder; empty if it diverged."""
    name = re.sub(r"[^a-zA-Z0-9.=]+", "-", f"{'-'.join(map(str, setting))}-{steps}-seed{seed}")
    path = folder / f"{name}.json"
    if not path.is_file():
        seed_everything(seed, verbose=False)
        module = RelativisticGAN(
            DCGANGenerator(latent_dim=32, channels=1, image_size=8, width=24),
            DCGANDiscriminator(channels=1, image_size=8, width=24),
            penalty=BothEnds(setting.gamma) if setting.gamma else None,
            game=setting.game,
            optimizer=lambda groups: torch.optim.Adam(groups, betas=(setting.beta, 0.9)),
            generator_lr=2e-3,
            discriminator_lr=2e-3,
        )
        metrics = GenerativeMetrics(
            DigitsClassifier.pretrained(), every_n_steps=every, num_samples=2000, metrics=["fid"]
        )
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            callbacks=[GeneratorEMA(halflife_images=4000), metrics],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            logger=False,
            default_root_dir=folder / "logs",
        )
        found: list[dict[str, Any]] = []
        try:
            trainer.fit(module, DigitsDataModule(batch_size=64))
            found = [{"step": record["step"], "values": record["values"]} for record in metrics.history]
        except DivergenceError as error:
            print(error)
        write_json(path, {"setting": setting._asdict(), "seed": seed, "history": found})
        print(path, found[-1]["values"] if found else "diverged", flush=True)
    kept: list[dict[str, Any]] = json.loads(path.read_text())["history"]
    return kept


def cell(histories: list[list[dict[str, Any]]]) -> str:
    """The last FID, mean and standard deviation over seeds."""
    last = [h[-1]["values"]["fid"] if h else None for h in histories]
    known = [fid if fid is not None else math.inf for fid in last]  # not finite is kept as null
    mean = statistics.fmean(known)
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 and math.isfinite(mean) else ""
    return f"{mean:.1f}{spread}" if math.isfinite(mean) else "diverged"


def main() -> None:
    """Play, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.0, 0.1], help="0: no penalty")
    parser.add_argument("--betas", type=float, nargs="+", default=list(BETAS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    quiet()
    steps, every, folder = 500, 250, options.output / "relativistic"
    if options.fast:
        steps, every, folder, options.seeds = 4, 2, options.output / "relativistic_fast", [0]
        options.betas = [0.5]
    folder.mkdir(parents=True, exist_ok=True)
    settings = [
        Setting(METHODS[m], gamma, beta) for gamma in options.gamma for m in options.methods for beta in options.betas
    ]
    found = {(s, seed): scores(s, seed, steps, every, folder) for seed in options.seeds for s in settings}
    print("| FID after 500 game steps | " + " | ".join(f"β₁ = {beta:g}" for beta in options.betas) + " |")
    print("|---" * (1 + len(options.betas)) + "|")
    for gamma in options.gamma:
        for method in options.methods:
            own = [Setting(METHODS[method], gamma, beta) for beta in options.betas]
            cells = [cell([found[s, seed] for seed in options.seeds]) for s in own]
            print("| " + " | ".join([f"{method}, γ = {gamma:g}", *cells]) + " |")


if __name__ == "__main__":
    main()

"""A larger real set: a narrow DCGAN on CIFAR-10 at two momenta, scored once, at the end, by Inception.

    lightning-lead fetch cifar10 && lightning-lead fetch inception
    python examples/talk/cifar10.py [--output runs/talk] [--seeds 0 1] [--fast]

The networks of `recipes/cifar10_dcgan.yaml` at an eighth of their width, batches of 64, Adam at 2e-4 with betas
(β₁, 0.999), 1,500 game steps. FID and KID of 5,000 samples of the averaged generator (half-life 4,000 images) against
the first 5,000 training images; KID in thousandths. Nothing is tuned: LEAD's coupling is "auto". A run takes 2 minutes
on one core, its score 7. Prints a table in Markdown; kept runs are not made again.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import torch
from drawing import parser_of
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn
from training import quiet

from lightning_lead import CIFAR10DataModule, DivergenceError, GenerativeMetrics, GeneratorEMA, LeadGANModule
from lightning_lead._files import write_json
from lightning_lead.networks import DCGAN32Discriminator, DCGAN32Generator

BETAS = (0.5, 0.8)
METHODS = {
    "Adam": "AlternatingGDA",
    "OptimisticAdam": "OptimisticAdam",
    "LEAD extrapolated, auto": "LEAD(cross='extrapolated')",
    "LEAD exact, auto": "LEAD",
}
SAMPLES = 5000


class Pixels(nn.Flatten):
    """The scores of `--fast`."""

    num_features = 3 * 32 * 32

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.float())


def scores(method: str, beta: float, seed: int, steps: int, folder: Path, *, fast: bool) -> dict[str, float | None]:
    """What came of a run, which is made if it is not in the folder; empty if it diverged."""
    path = folder / f"{method.split(',')[0].replace(' ', '-')}-beta{beta:g}-{steps}-seed{seed}.json"
    if not path.is_file():
        seed_everything(seed, verbose=False)
        width = 4 if fast else 32
        data = CIFAR10DataModule(batch_size=64, flip=False)
        module = LeadGANModule(
            DCGAN32Generator(latent_dim=100, width=width),
            DCGAN32Discriminator(width=width),
            game=METHODS[method],
            optimizer=lambda groups: torch.optim.Adam(groups, betas=(beta, 0.999)),
        )
        metrics = GenerativeMetrics(
            Pixels() if fast else "inception:channels_last",
            every_n_steps=steps,
            num_samples=50 if fast else SAMPLES,
            metrics=["kid"] if fast else ["fid", "kid"],
            kid_subset_size=20 if fast else 1000,
            reference=data.reference_images()[: 50 if fast else SAMPLES],
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
        found: dict[str, float] = {}
        try:
            trainer.fit(module, data)
            found = metrics.history[-1]["values"]
        except DivergenceError as error:
            print(error)
        write_json(path, {"method": METHODS[method], "beta": beta, "seed": seed, "values": found})
        print(path, found, flush=True)
    kept: dict[str, float | None] = json.loads(path.read_text())["values"]
    return kept


def cell(values: list[float | None], digits: int) -> str:
    """Mean and standard deviation over seeds; a run that diverged makes them infinite."""
    known = [math.inf if value is None else value for value in values]
    mean = statistics.fmean(known)
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 and math.isfinite(mean) else ""
    return f"{mean:.{digits}f}{spread}"


def main() -> None:
    """Play, score, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    quiet()
    steps, folder, betas, methods = 1500, options.output / "cifar10", BETAS, list(METHODS)
    if options.fast:
        steps, folder, betas, methods = 2, options.output / "cifar10_fast", BETAS[:1], list(METHODS)[::2]
    folder.mkdir(parents=True, exist_ok=True)
    seeds = options.seeds[:1] if options.fast else options.seeds
    runs = [(method, beta, seed) for seed in seeds for beta in betas for method in methods]
    found = {run: scores(*run, steps, folder, fast=options.fast) for run in runs}
    columns = [f"{name}, β₁ = {beta:g}" for beta in betas for name in ("FID", "KID × 1000")]
    print(f"| after {steps:,} game steps | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for method in methods:
        cells = []
        for beta in betas:
            kept = [found[method, beta, seed] for seed in seeds]
            cells.append(cell([values.get("fid") for values in kept], 1))
            kid = [values.get("kid") for values in kept]
            cells.append(cell([None if value is None else 1000 * value for value in kid], 1))
        print("| " + " | ".join([method, *cells]) + " |")


if __name__ == "__main__":
    main()

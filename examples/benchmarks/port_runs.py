"""What momentum does to ported training loops, with and without a look ahead: a table per port.

    python examples/benchmarks/port_runs.py stacked_digits --beta1 0 0.8 --steps 2000
    python examples/benchmarks/port_runs.py vqgan --beta1 0.5 0.8 0.9 --steps 1500
    python examples/benchmarks/port_runs.py vqgan_cifar10 --beta1 0.5 0.8 0.9 --steps 1500
    python examples/benchmarks/port_runs.py vocoder --beta1 0.5 0.8 0.9 --steps 600

R3GAN on stacked digits: modes found of 1,000, the divergence of their shares from even ones, FID. VQGAN and vocoder:
the error of reconstructions and the critic's loss, both over the last tenth of the steps. Every run is a line of
`--output`, and a run that is there already is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "ports"))

from lightning_lead import DigitsDataModule, GenerativeMetrics, GeneratorEMA
from lightning_lead.data import CIFAR10DataModule, StackedDigitsDataModule
from lightning_lead.features import StackedDigitsClassifier

GAMES = {"plain": "GradientPlay", "extrapolated": "LEAD(cross='extrapolated')"}


def fit(module: pl.LightningModule, data: Any, steps: int, callbacks: list[pl.Callback]) -> None:
    """Train quietly."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        enable_model_summary=False,
        callbacks=callbacks,
        log_every_n_steps=1,
        **quiet,
    )  # type: ignore[arg-type]
    trainer.fit(module, data)


def stacked_digits(game: str, beta1: float, seed: int, steps: int) -> dict[str, float]:
    """R3GAN: what 10,000 samples of the average show."""
    from r3gan import R3GAN, Discriminator, Generator

    module = R3GAN(game, beta1=beta1)
    module.generator, module.discriminator = Generator(channels=3), Discriminator(channels=3)
    module.noise.manual_seed(seed)
    scores = GenerativeMetrics(
        StackedDigitsClassifier(), every_n_steps=steps // 4, num_samples=10_000, metrics=["fid", "modes"]
    )
    fit(module, StackedDigitsDataModule(seed=seed), steps, [GeneratorEMA(halflife_images=5000), scores])
    return {f"{name} at {r['step']}": r["values"][name] for r in scores.history for name in ("modes", "mode_kl", "fid")}


class LastLosses(pl.Callback):
    """Averages what the module logs over the last tenth of the steps."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names, self.seen = names, {shown: list[float]() for shown in names.values()}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Keep the losses."""
        if trainer.global_step > 0.9 * trainer.max_steps:
            for name, shown in self.names.items():
                self.seen[shown].append(float(trainer.callback_metrics[name]))

    def means(self) -> dict[str, float]:
        """Their means."""
        return {name: statistics.fmean(values) for name, values in self.seen.items()}


def vqgan(game: str, beta1: float, seed: int, steps: int) -> dict[str, float]:
    """VQGAN on digits: the reconstructions of all of them, and the critic's loss."""
    from torch.nn.functional import l1_loss
    from vqgan import VQGAN

    module, data = VQGAN(game, start=steps // 5, beta1=beta1), DigitsDataModule(batch_size=64, seed=seed)
    losses = LastLosses({"loss/critic": "critic"})
    fit(module, data, steps, [losses])
    images = data.reference_images()
    with torch.no_grad():
        again, _ = module.eval().reconstruct(images)
    return {"L1": float(l1_loss(again, images)), **losses.means()}


def vqgan_cifar10(game: str, beta1: float, seed: int, steps: int) -> dict[str, float]:
    """VQGAN on CIFAR-10: the reconstructions of 2,000 test images, and the critic's loss."""
    from torch.nn.functional import l1_loss
    from vqgan import CIFAR10, VQGAN

    module = VQGAN(game, start=steps // 5, beta1=beta1, **CIFAR10)
    data = CIFAR10DataModule(batch_size=64, seed=seed, reference="test", download=True)
    losses = LastLosses({"loss/critic": "critic"})
    fit(module, data, steps, [losses])
    images = data.reference_images()[:2000].float() / 127.5 - 1
    with torch.no_grad():
        again, _ = module.eval().reconstruct(images)
    return {"L1": float(l1_loss(again, images)), **losses.means()}


def vocoder(game: str, beta1: float, seed: int, steps: int) -> dict[str, float]:
    """The vocoder: the error of log-spectra of 256 sounds that it has not heard, and the critics' loss."""
    from torch.nn.functional import l1_loss
    from torch.utils.data import DataLoader, TensorDataset
    from vocoder import Vocoder, sounds, spectrum

    module, losses = Vocoder(game, beta1), LastLosses({"loss/discriminator": "critics"})
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(sounds(1024)), 16, shuffle=True, drop_last=True, generator=order)
    fit(module, loader, steps, [losses])
    unheard = spectrum(sounds(256, seed=1))
    with torch.no_grad():
        return {"L1 of log-spectra": float(l1_loss(spectrum(module.eval()(unheard)), unheard)), **losses.means()}


PORTS = {"stacked_digits": stacked_digits, "vqgan": vqgan, "vqgan_cifar10": vqgan_cifar10, "vocoder": vocoder}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds, a line per momentum and game."""
    lines = []
    for beta1, label in itertools.product(sorted({row["beta1"] for row in rows}), GAMES):
        runs = [row["values"] for row in rows if (row["beta1"], row["label"]) == (beta1, label)]
        if not runs:
            continue
        cells = [f"{name} {_spread([run[name] for run in runs])}" for name in runs[0]]
        lines.append(f"β₁ = {beta1:g}, {label}, {len(runs)} seeds: " + ", ".join(cells))
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", choices=PORTS)
    parser.add_argument("--beta1", type=float, nargs="+", default=[0.0, 0.8], help="default: 0 and 0.8")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--steps", type=int, default=2000, help="game steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/port_runs.jsonl"), help="default: %(default)s")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in chosen.output.read_text().splitlines()] if chosen.output.exists() else []
    for seed, beta1, label in itertools.product(chosen.seeds, chosen.beta1, GAMES):
        run = {"port": chosen.port, "steps": chosen.steps, "seed": seed, "beta1": beta1, "label": label}
        if any(run.items() <= row.items() for row in done):
            continue
        pl.seed_everything(seed, verbose=False)
        start = time.process_time()
        run["values"] = PORTS[chosen.port](GAMES[label], beta1, seed, chosen.steps)
        run["cpu_seconds"] = round(time.process_time() - start, 1)
        done.append(run)
        with chosen.output.open("a") as file:
            file.write(json.dumps(run) + "\n")
    print(table([row for row in done if (row["port"], row["steps"]) == (chosen.port, chosen.steps)]))

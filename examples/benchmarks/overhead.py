"""Python's share: milliseconds per game step on networks so small that the arithmetic hardly counts.

    python examples/benchmarks/overhead.py [--rounds N] [--steps N] [--fast]

A DCGAN of width 4 on 8 × 8 images, batches of 16, one thread; what is left is what a GPU would wait for. Each method
trains in a process of its own and takes turns with the others, in a random order. The clock runs from batch to batch,
so that Lightning's own loop is in it; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator

BATCH, LATENTS = 16, 8
LIGHTNING = "Lightning's manual optimization"


class Batches:
    """Batches as they are asked for: a number comes in by a pipe, and the seconds per batch go out when they are used.

    A loop may fetch a batch ahead: between the first and the last of an order lie as many steps as it has batches.
    """

    def __init__(self, orders: Connection) -> None:
        self._orders, self._batch = orders, torch.rand(BATCH, 1, 8, 8) * 2 - 1

    def __iter__(self) -> Iterator[Tensor]:
        while steps := self._orders.recv():
            start = time.perf_counter()
            for _ in range(steps):
                yield self._batch
            self._orders.send((time.perf_counter() - start) / steps)


def networks() -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator, the same ones for every method."""
    torch.manual_seed(0)
    generator = DCGANGenerator(latent_dim=LATENTS, channels=1, image_size=8, width=4)
    return generator, DCGANDiscriminator(channels=1, image_size=8, width=4)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """The optimizer of every method."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.9))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The non-saturating objective's, from logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def plain_loop(batches: Batches) -> None:
    """Alternating Adam in torch alone, which neither logs nor seeds nor checks."""
    generator, discriminator = networks()
    generator_adam, discriminator_adam = adam(generator.parameters()), adam(discriminator.parameters())
    for real in batches:
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, LATENTS))
        discriminator_adam.zero_grad()
        discriminator_loss(discriminator(real), discriminator(fake)).backward()
        discriminator_adam.step()
        generator_adam.zero_grad()
        F.softplus(-discriminator(generator(torch.randn(BATCH, LATENTS)))).mean().backward()
        generator_adam.step()


class ManualGAN(pl.LightningModule):
    """Alternating Adam as Lightning's documentation writes it, with both losses logged."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = networks()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [adam(self.discriminator.parameters()), adam(self.generator.parameters())]

    def training_step(self, real: Tensor) -> None:
        discriminator_adam, generator_adam = self.optimizers()  # type: ignore[misc]
        with torch.no_grad():
            fake = self.generator(torch.randn(BATCH, LATENTS, device=self.device))
        d_loss = discriminator_loss(self.discriminator(real), self.discriminator(fake))
        discriminator_adam.zero_grad()
        self.manual_backward(d_loss)
        discriminator_adam.step()
        fake = self.generator(torch.randn(BATCH, LATENTS, device=self.device))
        g_loss = F.softplus(-self.discriminator(fake)).mean()
        generator_adam.zero_grad()
        self.manual_backward(g_loss)
        generator_adam.step()
        self.log_dict({"loss/discriminator": d_loss, "loss/generator": g_loss})


def fit(module: pl.LightningModule, batches: Batches) -> None:
    """Train for ever; norms and cosines are logged, by whoever logs them, every 50 steps as is Lightning's default."""
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches)


def library(game: Callable[[], LEADStrategy]) -> Callable[[Batches], None]:
    """A method of this library, as a Trainer runs it."""
    return lambda batches: fit(LeadGANModule(*networks(), game=game(), optimizer=adam), batches)


METHODS: dict[str, Callable[[Batches], None]] = {
    LIGHTNING: lambda batches: fit(ManualGAN(), batches),
    "a plain loop without Lightning": plain_loop,
    "plain play": library(lambda: LEADStrategy(0.0)),
    "LEAD, extrapolated": library(lambda: LEADStrategy(cross="extrapolated")),
    "LEAD, difference": library(lambda: LEADStrategy(cross="difference")),
    "LEAD, exact": library(lambda: LEADStrategy()),
}


def serve(orders: Connection, method: str) -> None:
    """The process of one method."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    torch.set_num_threads(1)
    METHODS[method](Batches(orders))


def measure(rounds: int, steps: int) -> dict[str, list[float]]:
    """Return seconds per game step of each method in each round."""
    context, pipes, processes = mp.get_context("forkserver"), {}, []  # forks of a process that has done the imports
    context.set_forkserver_preload(["pytorch_lightning", "lightning_lead.gan", "lightning_lead.networks"])
    for method in METHODS:
        pipes[method], end = mp.Pipe()
        processes.append(context.Process(target=serve, args=(end, method), daemon=True))
        processes[-1].start()
        end.close()
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for played in range(rounds + 1):  # the first round warms up
        for method in random.sample(list(METHODS), len(METHODS)):
            pipes[method].send(steps)
            taken = pipes[method].recv()
            if played:
                seconds[method].append(taken)
    for process in processes:
        process.kill()
        process.join()
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write it to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="turns of each method (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="game steps of a turn (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="one round of two steps: numbers that mean nothing")
    parser.add_argument("--output", type=Path, default=Path("overhead.md"), help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # before the processes load torch
    seconds = measure(*((1, 2) if chosen.fast else (chosen.rounds, chosen.steps)))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Lightning {pl.__version__}"
    lines = [
        f"{datetime.date.today()}, {versions}",
        "",
        "| method | median step | of Lightning's own loop |",
        "|---|---|---|",
    ]
    for method, mine in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(mine, seconds[LIGHTNING], strict=True))
        lines.append(f"| {method} | {1000 * statistics.median(mine):.2f} ms | {ratio:.2f}× |")
    chosen.output.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join([*lines, f"table: {chosen.output}"]))


if __name__ == "__main__":
    main()

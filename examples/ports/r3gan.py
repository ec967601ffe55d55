"""R3GAN (Huang et al., 2024) on digits: a relativistic pairing loss with R1 and R2, and networks without a norm.

    python examples/ports/r3gan.py [--steps N] [--game "LEAD(cross='extrapolated')"] [--beta1 0.8]

`plain_loop` is the training loop as it was; `R3GAN` is what becomes of it. Latents come from a generator that the
module holds, as in the loop, so the game is one that evaluates a loss once: plain play, or LEAD's extrapolated form.
Drawn from torch's global generator they would suit every rule, and a resumed run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from lightning_lead import DigitsDataModule, GenerativeMetrics, GeneratorEMA, LeadMixin
from lightning_lead.features import DigitsClassifier


class Block(nn.Module):
    """A residual block whose last convolution begins at zero, in place of a norm."""

    def __init__(self, width: int, groups: int = 4) -> None:
        super().__init__()
        inner, self.act = 2 * width, nn.LeakyReLU(0.2)
        self.wide, self.grouped = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, inner, 3, 1, 1, groups=groups)
        self.narrow = nn.Conv2d(inner, width, 1, bias=False)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.act(self.grouped(self.act(self.wide(x)))))


class Generator(nn.Module):
    """Latents (n, 16) to images (n, channels, 8, 8)."""

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Linear(16, width * 4), nn.Unflatten(1, (width, 2, 2)))
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.end = nn.Conv2d(width, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.blocks[0](self.start(z))
        for block in self.blocks[1:]:
            x = block(interpolate(x, scale_factor=2.0))
        return self.end(x)


class Discriminator(nn.Module):
    """Images to one logit each."""

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.start, self.end = nn.Conv2d(channels, width, 1), nn.Linear(width * 4, 1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks[:-1]:
            x = interpolate(block(x), scale_factor=0.5, mode="area")
        return self.end(self.blocks[-1](x).flatten(1)).squeeze(1)


def zero_centred(images: Tensor, logits: Tensor) -> Tensor:
    """R1 of reals, R2 of fakes: the mean squared slope of D."""
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()


class R3GAN(LeadMixin, pl.LightningModule):
    """The game."""

    def __init__(self, game: Any = "LEAD(cross='extrapolated')", gamma: float = 1.0, beta1: float = 0.0) -> None:
        super().__init__(game=game)
        self.gamma, self.beta1, self.noise = gamma, beta1, torch.Generator().manual_seed(0)
        self.generator, self.discriminator = Generator(), Discriminator()

    def players(self):
        return {"discriminator": self.discriminator.parameters(), "generator": self.generator.parameters()}

    def fakes(self, n):
        weight = self.generator.end.weight
        return self.generator(torch.randn(n, 16, generator=self.noise, dtype=weight.dtype).to(weight.device))

    def discriminator_loss(self, batch):
        real, fake = batch[0].clone().requires_grad_(), self.fakes(len(batch[0])).detach().requires_grad_()
        of_real, of_fake = self.discriminator(real), self.discriminator(fake)
        penalty = zero_centred(real, of_real) + zero_centred(fake, of_fake)
        return softplus(of_fake - of_real).mean() + self.gamma / 2 * penalty

    def generator_loss(self, batch):
        of_fake = self.discriminator(self.fakes(len(batch[0])))
        return softplus(self.discriminator(batch[0]) - of_fake).mean()

    def sample(self, n):
        return self.generator(torch.randn(n, 16, device=self.device)).clamp(-1, 1)

    def configure_optimizers(self):
        networks = (self.discriminator, self.generator)
        return [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(self.beta1, 0.99)) for net in networks]


def plain_loop(module: R3GAN, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """The loop that was there before."""
    optimizers = module.configure_optimizers()
    for batch in batches:
        for optimizer, loss in zip(optimizers, (module.discriminator_loss, module.generator_loss), strict=True):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="game steps (default: %(default)s)")
    parser.add_argument("--game", default="LEAD(cross='extrapolated')", help="default: %(default)s")
    parser.add_argument("--beta1", type=float, default=0.0, help="Adam's (default: %(default)s)")
    chosen = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    data, module = DigitsDataModule(batch_size=64), R3GAN(chosen.game, beta1=chosen.beta1)
    metrics = GenerativeMetrics(DigitsClassifier.pretrained(), every_n_steps=200, num_samples=1000, metrics=["fid"])
    callbacks = [GeneratorEMA(halflife_images=2000), metrics]
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    pl.Trainer(max_steps=chosen.steps, callbacks=callbacks, **quiet).fit(module, data)
    print(", ".join(f"FID {record['values']['fid']:.1f} at step {record['step']}" for record in metrics.history))

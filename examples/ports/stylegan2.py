"""A small StyleGAN2 (Karras et al., 2020) on digits: mapping, modulation, noise, lazy R1 and path length.

    python examples/ports/stylegan2.py [--steps N] [--game "LEAD(cross='extrapolated')"]

`plain_loop` is the training loop as it was; `StyleGAN2` is what becomes of it. Latents and noise come from a generator
that the module holds, and the mean path length is state, so the game is one that evaluates a loss once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, softplus

from lightning_lead import DigitsDataModule, GenerativeMetrics, GeneratorEMA, LeadMixin
from lightning_lead.features import DigitsClassifier


class StyledConv(nn.Module):
    """A convolution whose weights are scaled by a style, and noise after it."""

    def __init__(self, width: int, styles: int) -> None:
        super().__init__()
        self.style, self.strength = nn.Linear(styles, width), nn.Parameter(torch.zeros(()))
        self.weight = nn.Parameter(torch.randn(width, width, 3, 3) / (9 * width) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, w: Tensor, noise: torch.Generator | None) -> Tensor:
        n, width, height, _ = x.shape
        weight = self.weight * (1 + self.style(w))[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = conv2d(x.reshape(1, n * width, height, height), weight.flatten(0, 1), padding=1, groups=n).view_as(x)
        drawn = torch.randn(n, 1, height, height, generator=noise, dtype=x.dtype).to(x.device)
        return leaky_relu(y + self.strength * drawn + self.bias[:, None, None], 0.2)


class Generator(nn.Module):
    """Latents (n, 16), by way of styles, to images (n, 1, 8, 8)."""

    def __init__(self, width: int = 32, styles: int = 16) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(16, styles), nn.LeakyReLU(0.2), nn.Linear(styles, styles))
        self.constant = nn.Parameter(torch.randn(1, width, 2, 2))
        self.convs = nn.ModuleList(StyledConv(width, styles) for _ in range(3))
        self.to_image = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in range(3))

    def synthesis(self, w: Tensor, noise: torch.Generator | None) -> Tensor:
        x, image = self.constant.expand(len(w), -1, -1, -1), 0
        for k, (conv, to_image) in enumerate(zip(self.convs, self.to_image, strict=True)):
            x = conv(interpolate(x, scale_factor=2.0) if k else x, w, noise)
            image = to_image(x) + (interpolate(image, scale_factor=2.0) if k else 0)
        return image


def discriminator(width: int = 32) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * width, 1),
    )  # fmt: skip


class StyleGAN2(LeadMixin, pl.LightningModule):
    """The game."""

    r1_every, path_every = 16, 4

    def __init__(self, game: Any = "LEAD(cross='extrapolated')", gamma: float = 1.0, beta1: float = 0.0) -> None:
        super().__init__(game=game)
        self.gamma, self.beta1, self.noise = gamma, beta1, torch.Generator().manual_seed(0)
        self.generator, self.discriminator = Generator(), discriminator()
        self.register_buffer("path_mean", torch.zeros(()))

    def players(self):
        return {"discriminator": self.discriminator.parameters(), "generator": self.generator.parameters()}

    def styles(self, n):
        weight = self.generator.constant
        return self.generator.mapping(torch.randn(n, 16, generator=self.noise, dtype=weight.dtype).to(weight.device))

    def discriminator_loss(self, batch, step=None):
        step = self.global_step if step is None else step
        due = step % self.r1_every == 0
        real = batch[0].clone().requires_grad_(due)
        logits, fake = self.discriminator(real), self.generator.synthesis(self.styles(len(real)), self.noise)
        loss = softplus(-logits).mean() + softplus(self.discriminator(fake.detach())).mean()
        if due:
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            loss = loss + self.r1_every * self.gamma / 2 * slope.square().flatten(1).sum(1).mean()
        return loss

    def generator_loss(self, batch, step=None):
        step = self.global_step if step is None else step
        w = self.styles(len(batch[0]))
        fake = self.generator.synthesis(w, self.noise)
        loss = softplus(-self.discriminator(fake)).mean()
        if step % self.path_every == 0:
            y = torch.randn(fake.shape, generator=self.noise, dtype=fake.dtype).to(fake) / 8
            (slope,) = torch.autograd.grad((fake * y).sum(), w, create_graph=True)
            lengths = slope.square().sum(1).sqrt()
            self.path_mean = self.path_mean.lerp(lengths.detach().mean(), 0.01)
            loss = loss + self.path_every * 2.0 * (lengths - self.path_mean).square().mean()
        return loss

    def sample(self, n):
        w = self.generator.mapping(torch.randn(n, 16, device=self.device))
        return self.generator.synthesis(w, None).clamp(-1, 1)

    def configure_optimizers(self):
        networks = (self.discriminator, self.generator)
        return [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(self.beta1, 0.99)) for net in networks]


def plain_loop(module: StyleGAN2, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """The loop that was there before."""
    optimizers = module.configure_optimizers()
    for step, batch in enumerate(batches):
        for optimizer, loss in zip(optimizers, (module.discriminator_loss, module.generator_loss), strict=True):
            optimizer.zero_grad()
            loss(batch, step).backward()
            optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="game steps (default: %(default)s)")
    parser.add_argument("--game", default="LEAD(cross='extrapolated')", help="default: %(default)s")
    chosen = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    data, module = DigitsDataModule(batch_size=64), StyleGAN2(chosen.game)
    metrics = GenerativeMetrics(DigitsClassifier.pretrained(), every_n_steps=200, num_samples=1000, metrics=["fid"])
    callbacks = [GeneratorEMA(halflife_images=2000), metrics]
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    pl.Trainer(max_steps=chosen.steps, callbacks=callbacks, **quiet).fit(module, data)
    print(", ".join(f"FID {record['values']['fid']:.1f} at step {record['step']}" for record in metrics.history))

"""A small BigGAN (Brock et al., 2019) on labelled digits: conditional norms, a projection, hinge, two steps of D.

    python examples/ports/biggan.py [--steps N] [--game "LEAD(cross='extrapolated')"] [--beta1 0.8]

`plain_loop` is the training loop as it was; `BigGAN` is what becomes of it: two networks and settings. Labels reach
both networks by the name `y`. Every rule can play it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from lightning_lead import DigitsDataModule, GenerativeMetrics, GeneratorEMA, LeadGANModule
from lightning_lead.features import DigitsClassifier

spectral, CLASSES, LATENT = nn.utils.parametrizations.spectral_norm, 10, 24


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift are linear in the latent and the class."""

    def __init__(self, channels: int, conditions: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = (spectral(nn.Linear(conditions, channels, bias=False)) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = (layer(condition)[:, :, None, None] for layer in (self.scale, self.shift))
        return self.norm(x) * (1 + scale) + shift


class Up(nn.Module):
    """A residual block that doubles the sides."""

    def __init__(self, width: int, conditions: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ConditionalNorm(width, conditions) for _ in range(2))
        self.convs = nn.ModuleList(spectral(nn.Conv2d(width, width, 3, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        wide = interpolate(relu(self.norms[0](x, condition)), scale_factor=2.0)
        out = self.convs[1](relu(self.norms[1](self.convs[0](wide), condition)))
        return out + interpolate(x, scale_factor=2.0)


class Generator(nn.Module):
    """Latents (n, 24) and labels to images (n, 1, 8, 8); a third of a latent goes into each block."""

    latent_dim, num_classes = LATENT, CLASSES

    def __init__(self, width: int = 24, embedded: int = 16) -> None:
        super().__init__()
        self.classes, self.start = nn.Embedding(CLASSES, embedded), spectral(nn.Linear(LATENT // 3, 4 * width))
        self.ups = nn.ModuleList(Up(width, embedded + LATENT // 3) for _ in range(2))
        self.end = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), spectral(nn.Conv2d(width, 1, 3, 1, 1)), nn.Tanh())

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        first, *rest = z.chunk(3, dim=1)
        x = self.start(first).unflatten(1, (-1, 2, 2))
        for up, part in zip(self.ups, rest, strict=True):
            x = up(x, torch.cat([part, self.classes(y)], dim=1))
        return self.end(x)


class Discriminator(nn.Module):
    """Images and labels to one logit each: a linear function of the features plus their product with the class."""

    num_classes = CLASSES

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        shapes = [(1, width), (width, width), (width, 2 * width)]
        self.convs = nn.ModuleList(spectral(nn.Conv2d(a, b, 3, 1, 1)) for a, b in shapes)
        self.last, self.classes = spectral(nn.Linear(2 * width, 1)), spectral(nn.Embedding(CLASSES, 2 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = relu(self.convs[0](x))
        for conv in self.convs[1:]:
            x = avg_pool2d(relu(conv(x)), 2)
        features = x.sum((2, 3))
        return self.last(features).squeeze(1) + (self.classes(y) * features).sum(1)


class BigGAN(LeadGANModule):
    """The game."""

    def __init__(self, game: Any = "LEAD(cross='extrapolated')", beta1: float = 0.0) -> None:
        super().__init__(Generator(), Discriminator(), objective="hinge", discriminator_steps=2, game=game)
        self.beta1, self.noise = beta1, torch.Generator().manual_seed(0)

    def sample_latents(self, n):
        weight = next(self.parameters())
        return torch.randn(n, LATENT, generator=self.noise, dtype=weight.dtype).to(weight.device)

    def configure_optimizers(self):
        betas = (self.beta1, 0.999)
        of_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-3, betas=betas, eps=1e-6)
        return [of_d, torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=betas, eps=1e-6)]


def plain_loop(module: BigGAN, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """The loop that was there before."""
    of_d, of_g = module.configure_optimizers()
    generator, discriminator = module.generator, module.discriminator
    for images, labels in batches:
        halves = list(zip(images.chunk(2), labels.chunk(2), strict=True))
        latents = [module.sample_latents(len(images) // 2) for _ in range(3)]
        for (real, y), z in zip(halves, latents[:2], strict=True):
            of_fake, of_real = discriminator(generator(z, y).detach(), y), discriminator(real, y)
            of_d.zero_grad()
            (relu(1 - of_real).mean() + relu(1 + of_fake).mean()).backward()
            of_d.step()
        of_g.zero_grad()
        (-discriminator(generator(latents[2], y), y).mean()).backward()
        of_g.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="game steps (default: %(default)s)")
    parser.add_argument("--game", default="LEAD(cross='extrapolated')", help="default: %(default)s")
    parser.add_argument("--beta1", type=float, default=0.0, help="Adam's (default: %(default)s)")
    chosen = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    data, module = DigitsDataModule(batch_size=64), BigGAN(chosen.game, beta1=chosen.beta1)
    metrics = GenerativeMetrics(DigitsClassifier.pretrained(), every_n_steps=200, num_samples=1000, metrics=["fid"])
    callbacks = [GeneratorEMA(halflife_images=2000), metrics]
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    pl.Trainer(max_steps=chosen.steps, callbacks=callbacks, **quiet).fit(module, data)
    print(", ".join(f"FID {record['values']['fid']:.1f} at step {record['step']}" for record in metrics.history))

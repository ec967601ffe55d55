"""pix2pix (Isola et al., 2017) with an image pool: digits from their quarter size, as a plain loop and as a LEAD game.

    python examples/ports/pix2pix.py [--steps N] [--game "LEAD(cross='extrapolated')"]

`plain_loop` is the training loop as it was; `Pix2Pix` is what becomes of it. The pool keeps state in a loss, so the
game is one that evaluates a loss once: plain play, or LEAD's extrapolated form.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate, l1_loss

from lightning_lead import DigitsDataModule, LeadMixin


class Translator(nn.Module):
    """A U-Net of two levels, (n, 1, 8, 8) to (n, 1, 8, 8)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2))
        self.middle = nn.Sequential(
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.InstanceNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
        )
        self.up = nn.Sequential(nn.ConvTranspose2d(2 * width, 1, 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        half = self.down(x)
        return self.up(torch.cat([half, self.middle(half)], dim=1))


def patch_critic(width: int = 16) -> nn.Module:
    """Logits of patches of (source, target)."""
    return nn.Sequential(
        nn.Conv2d(2, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 2 * width, 3, 1, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, 1, 1),
    )  # fmt: skip


class ImagePool:
    """Every second image that is shown is one of the last 50 (Shrivastava et al., 2017)."""

    def __init__(self, size: int = 50) -> None:
        self.size, self.images = size, list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        shown = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif random.random() < 0.5:
                shown.append(image)
            else:
                k = random.randrange(self.size)
                shown.append(self.images[k])
                self.images[k] = image
        return torch.stack(shown)


def adversarial(logits: Tensor, real: bool) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def pair(batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Digits at a quarter of their size, drawn large again, and the digits."""
    target = batch[0]
    return interpolate(avg_pool2d(target, 2), scale_factor=2.0), target


class Pix2Pix(LeadMixin, pl.LightningModule):
    """The game."""

    def __init__(self, game: object = "LEAD(cross='extrapolated')", beta1: float = 0.5) -> None:
        super().__init__(game=game)
        self.beta1, self.pool = beta1, ImagePool()
        self.generator, self.discriminator = Translator(), patch_critic()

    def players(self):
        return {"discriminator": self.discriminator.parameters(), "generator": self.generator.parameters()}

    def discriminator_loss(self, batch):
        source, target = pair(batch)
        shown = self.pool(torch.cat([source, self.generator(source)], dim=1))
        real = self.discriminator(torch.cat([source, target], dim=1))
        return (adversarial(self.discriminator(shown), False) + adversarial(real, True)) / 2

    def generator_loss(self, batch):
        source, target = pair(batch)
        fake = self.generator(source)
        fooled = adversarial(self.discriminator(torch.cat([source, fake], dim=1)), True)
        return fooled + 100 * l1_loss(fake, target)

    def configure_optimizers(self):
        networks = (self.discriminator, self.generator)
        return [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(self.beta1, 0.999)) for net in networks]


def plain_loop(module: Pix2Pix, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """The loop that was there before: one fake image for both steps."""
    step_d, step_g = module.configure_optimizers()
    for batch in batches:
        source, target = pair(batch)
        fake = module.generator(source)
        shown = module.pool(torch.cat([source, fake], dim=1))
        real = module.discriminator(torch.cat([source, target], dim=1))
        step_d.zero_grad()
        ((adversarial(module.discriminator(shown), False) + adversarial(real, True)) / 2).backward()
        step_d.step()
        step_g.zero_grad()
        fooled = adversarial(module.discriminator(torch.cat([source, fake], dim=1)), True)
        (fooled + 100 * l1_loss(fake, target)).backward()
        step_g.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="game steps (default: %(default)s)")
    parser.add_argument("--game", default="LEAD(cross='extrapolated')", help="default: %(default)s")
    chosen = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    data, module = DigitsDataModule(batch_size=64), Pix2Pix(chosen.game)
    data.prepare_data()
    data.setup("fit")
    trainer = pl.Trainer(max_steps=chosen.steps, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    source, target = pair(next(iter(data.train_dataloader())))
    with torch.no_grad():
        before, after = l1_loss(source, target), l1_loss(module.generator(source), target)
    print(f"mean absolute error: {before:.3f} of the source, {after:.3f} of the translation")

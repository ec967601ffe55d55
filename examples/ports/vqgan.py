"""VQGAN (Esser et al., 2021) on digits or CIFAR-10: a codebook that averages, an adaptive weight, a late critic.

    python examples/ports/vqgan.py [--data digits|cifar10] [--steps N] [--game "LEAD(cross='extrapolated')"]

`plain_loop` is the training loop as it was; `VQGAN` is what becomes of it. The codebook moves in a loss and the weight
takes a gradient in one, so the game is one that evaluates a loss once: plain play, or LEAD's extrapolated form.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, one_hot, relu

from lightning_lead import DigitsDataModule, LeadMixin
from lightning_lead.data import CIFAR10DataModule

CIFAR10 = {"channels": 3, "size": 32, "codes": 256}


class Codebook(nn.Module):
    """Vectors that follow the mean of what they stand for, by a decay; (n, dim, h, w) to the nearest ones."""

    def __init__(self, size: int = 32, dim: int = 8, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("vectors", torch.randn(size, dim))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", self.vectors.clone())

    def forward(self, z: Tensor) -> Tensor:
        flat = z.movedim(1, -1).reshape(-1, z.shape[1])
        nearest = torch.cdist(flat.detach(), self.vectors).argmin(1)
        chosen = self.vectors[nearest].reshape(z.movedim(1, -1).shape).movedim(-1, 1)
        if self.training:
            with torch.no_grad():
                used = one_hot(nearest, len(self.counts)).to(flat.dtype)
                self.counts.lerp_(used.sum(0), 1 - self.decay)
                self.sums.lerp_(used.T @ flat, 1 - self.decay)
                self.vectors.copy_(self.sums / self.counts.clamp_min(1e-3)[:, None])
        return z + (chosen - z).detach()


def critic(channels: int, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, 1, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 1, 3, 1, 1),
    )  # fmt: skip


class VQGAN(LeadMixin, pl.LightningModule):
    """The game, on images (n, channels, size, size)."""

    def __init__(
        self,
        game: Any = "LEAD(cross='extrapolated')",
        start: int = 100,
        beta1: float = 0.5,
        *,
        channels: int = 1,
        size: int = 8,
        codes: int = 32,
    ) -> None:
        super().__init__(game=game)
        self.start, self.beta1, self.side = start, beta1, size // 4
        self.encoder = nn.Sequential(nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1))
        self.codebook, self.critic = Codebook(codes), critic(channels)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, channels, 4, 2, 1), nn.Tanh()
        )

    def players(self):
        autoencoder = [*self.encoder.parameters(), *self.decoder.parameters()]
        return {"autoencoder": autoencoder, "critic": self.critic.parameters()}

    def reconstruct(self, images):
        z = self.encoder(images)
        codes = self.codebook(z)
        return self.decoder(codes), (z - codes.detach()).square().mean()

    def autoencoder_loss(self, batch, step=None):
        again, commitment = self.reconstruct(batch[0])
        content, fooled = l1_loss(again, batch[0]), -self.critic(again).mean()
        last = self.decoder[-2].weight
        pull, push = (torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (content, fooled))
        weight = 0.8 * (pull / (push + 1e-4)).clamp(0, 1e4).detach()
        started = (self.global_step if step is None else step) >= self.start
        return content + 0.25 * commitment + started * weight * fooled

    def critic_loss(self, batch, step=None):
        again, _ = self.reconstruct(batch[0])
        real, fake = self.critic(batch[0]), self.critic(again.detach())
        started = (self.global_step if step is None else step) >= self.start
        return started * (relu(1 - real).mean() + relu(1 + fake).mean()) / 2

    def sample(self, n):
        """Decode codes that are drawn at random."""
        vectors = self.codebook.vectors
        drawn = torch.randint(len(vectors), (n, self.side, self.side), device=self.device)
        return self.decoder(vectors[drawn].movedim(-1, 1))

    def configure_optimizers(self):
        return [torch.optim.Adam(list(p), lr=1e-3, betas=(self.beta1, 0.9)) for p in self.players().values()]


def plain_loop(module: VQGAN, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """The loop that was there before."""
    optimizers = module.configure_optimizers()
    for step, batch in enumerate(batches):
        for optimizer, loss in zip(optimizers, (module.autoencoder_loss, module.critic_loss), strict=True):
            optimizer.zero_grad()
            loss(batch, step).backward()
            optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "cifar10"], default="digits", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="game steps (default: %(default)s)")
    parser.add_argument("--game", default="LEAD(cross='extrapolated')", help="default: %(default)s")
    chosen = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    on_digits = chosen.data == "digits"
    data = DigitsDataModule(batch_size=64) if on_digits else CIFAR10DataModule(batch_size=64, download=True)
    module = VQGAN(chosen.game, **({} if on_digits else CIFAR10))
    data.prepare_data()
    data.setup("fit")
    trainer = pl.Trainer(max_steps=chosen.steps, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    images = next(iter(data.train_dataloader()))[0]
    with torch.no_grad():
        again, _ = module.eval().reconstruct(images)
    mean = images.mean(0, keepdim=True).expand_as(images)
    print(f"mean absolute error: {l1_loss(again, images):.3f}, of the mean image {l1_loss(mean, images):.3f}")

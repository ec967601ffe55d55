"""Before: a GAN as Lightning users write it, with manual optimization and two optimizers; trained on digits.

The model of Lightning's GAN tutorial, in manual form: MLP networks, sigmoid output, cross-entropy, two Adams.

    python examples/port/plain_gan.py
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy

from lightning_lead import DigitsDataModule


class Generator(nn.Module):
    def __init__(self, latent_dim, image_shape):
        super().__init__()
        self.image_shape = image_shape
        widths = [latent_dim, 128, 256, 512, 1024]
        layers = []
        for number, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Linear(before, after)]
            layers += [nn.BatchNorm1d(after, 0.8)] if number else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.model = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(image_shape)), nn.Tanh())

    def forward(self, z):
        return self.model(z).view(len(z), *self.image_shape)


class Discriminator(nn.Module):
    def __init__(self, image_shape):
        super().__init__()
        self.model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(image_shape), 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(256, 1),
            nn.Sigmoid(),
        )

    def forward(self, images):
        return self.model(images)


class GAN(pl.LightningModule):
    def __init__(self, image_shape, latent_dim=100, lr=2e-4, b1=0.5, b2=0.999):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = Generator(latent_dim, image_shape)
        self.discriminator = Discriminator(image_shape)

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, logits, truth):
        return binary_cross_entropy(logits, torch.full_like(logits, truth))

    def training_step(self, batch, batch_idx):
        images, _ = batch
        optimizer_g, optimizer_d = self.optimizers()
        z = torch.randn(len(images), self.hparams.latent_dim, device=self.device)

        self.toggle_optimizer(optimizer_g)
        g_loss = self.adversarial_loss(self.discriminator(self(z)), 1.0)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)

        self.toggle_optimizer(optimizer_d)
        real_loss = self.adversarial_loss(self.discriminator(images), 1.0)
        fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), 0.0)
        d_loss = (real_loss + fake_loss) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)

    def configure_optimizers(self):
        betas = (self.hparams.b1, self.hparams.b2)
        optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=self.hparams.lr, betas=betas)
        optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams.lr, betas=betas)
        return [optimizer_g, optimizer_d], []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=500)
    batches = parser.parse_args().batches
    data = DigitsDataModule(batch_size=64)
    trainer = pl.Trainer(max_epochs=-(-batches // 28), limit_train_batches=min(batches, 28), accelerator="cpu")
    trainer.fit(GAN(data.image_shape), data)
    print("game steps:", trainer.global_step // 2)  # Lightning counts the steps of both optimizers

"""A small GAN on 4×4 images, a feature network that classifies, and a silent Trainer: what the callback tests share."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import GameStrategy, LeadGANModule
from lightning_lead.callbacks import find_ema, generate
from lightning_lead.rules import GradientPlay


class TinyGenerator(nn.Module):
    """Latents (n, 4) to images (n, 1, 4, 4) in (−1, 1), with buffers, and with a layer that draws in train mode."""

    latent_dim = 4

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2)
        self.last, self.gain = nn.Linear(16, 16), gain

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(torch.tanh(self.norm(self.first(latents))))
        return self.gain * torch.tanh(self.last(hidden)).view(-1, 1, 4, 4)


class TinyExtractor(nn.Module):
    """Six smooth features of an image, and three classes."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.register_buffer("project", torch.randn(16, 6, generator=draw) / 4)
        self.register_buffer("classes", torch.randn(6, 3, generator=draw))
        self.forwards = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.forwards += len(images)
        return torch.tanh(images.flatten(1).float() / 127.5 @ self.project)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return 3 * features @ self.classes


class FeaturesOnly(nn.Module):
    """The same features, without the classifier."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyExtractor()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


class Predicts(LeadGANModule):
    """Samples, one per index."""

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        ema = find_ema(self.trainer)
        return next(generate(self, len(batch), seed=int(batch[0]), batch_size=len(batch), ema=ema))


def gan(generator: nn.Module | None = None, kind: type[LeadGANModule] = LeadGANModule) -> LeadGANModule:
    """Always the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        generator = generator or TinyGenerator()
        discriminator = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
    game = GameStrategy(GradientPlay())
    return kind(generator, discriminator, game=game, generator_lr=0.01, discriminator_lr=0.01)


def images(count: int = 60) -> torch.Tensor:
    """Real images in (−1, 1), always the same."""
    return torch.tanh(torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(9)))


def loader(count: int = 60, batch_size: int = 10, **settings: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images(count)), batch_size, **settings)


def trainer(folder: Any, max_steps: int = 6, **settings: Any) -> pl.Trainer:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": str(folder),
    }
    return pl.Trainer(max_steps=max_steps, **(quiet | settings))


SMALL = {"num_samples": 50, "batch_size": 8, "kid_subsets": 5, "kid_subset_size": 20}

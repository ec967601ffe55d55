"""Small games that several tests share."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_lead import LeadGANModule


class TinyGenerator(nn.Sequential):
    """Latents (n, 3) to points (n, 2); smooth, no batch norm."""

    latent_dim = 3


def tiny_networks(*, batch_norm: bool = False, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """A generator and a discriminator of points, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        middle: list[nn.Module] = [nn.BatchNorm1d(6)] if batch_norm else []
        generator = TinyGenerator(nn.Linear(3, 6), *middle, nn.Tanh(), nn.Linear(6, 2))
        discriminator = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
    return generator.to(dtype), discriminator.to(dtype)


def tiny_gan(*, batch_norm: bool = False, dtype: torch.dtype = torch.float64, **settings: Any) -> LeadGANModule:
    """A GAN on points."""
    generator, discriminator = tiny_networks(batch_norm=batch_norm, dtype=dtype)
    return LeadGANModule(generator, discriminator, **({"generator_lr": 0.01, "discriminator_lr": 0.01} | settings))


def tiny_points(count: int = 96, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Points (count, 2), always the same."""
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(9), dtype=dtype)


def tiny_loader(batch_size: int, *, world_size: int = 1, rank: int = 0, count: int = 96) -> DataLoader[Any]:
    """The points in order; rank r of w sees every w-th one, so that ranks' batches make up the joint batch."""
    data = TensorDataset(tiny_points(count))
    sampler = DistributedSampler(data, num_replicas=world_size, rank=rank, shuffle=False)
    return DataLoader(data, batch_size, sampler=sampler)


def tiny_trainer(max_steps: int, **settings: Any) -> pl.Trainer:
    """A silent CPU trainer."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return pl.Trainer(max_steps=max_steps, **(quiet | settings))

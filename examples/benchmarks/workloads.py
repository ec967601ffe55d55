"""What the benchmark trains: two networks, data of the right shape, and the sizes of one game step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead.data import GaussiansDataModule
from lightning_lead.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    SNGANDiscriminator,
    SNGANGenerator,
)

__all__ = ["Workload", "workloads"]


@dataclass(frozen=True)
class Workload:
    """One pair of networks and the sizes of a game step.

    Args:
        title: for the table.
        networks: () -> (generator, discriminator).
        reals: n -> real samples (n, ...).
        latent_dim: size of a latent.
        objective: as `LeadGANModule` takes it.
        batch_size: reals, and fakes, of one discriminator update.
        discriminator_steps: discriminator updates per game step.
        generator_batch_size: fakes of one generator update.
        betas: Adam's.
        precision: "32-true" or "bf16-mixed".
        channels_last: whether networks and images are laid out channels last.
    """

    title: str
    networks: Callable[[], tuple[nn.Module, nn.Module]]
    reals: Callable[[int], Tensor]
    latent_dim: int
    objective: str
    batch_size: int
    discriminator_steps: int = 1
    generator_batch_size: int | None = None
    betas: tuple[float, float] = (0.0, 0.9)
    precision: Any = "32-true"
    channels_last: bool = False

    @property
    def fakes(self) -> int:
        """Fakes of one generator update."""
        return self.generator_batch_size or self.batch_size

    def built(self, device: torch.device) -> tuple[nn.Module, nn.Module]:
        """The networks, the same ones for every method."""
        torch.manual_seed(0)
        generator, discriminator = self.networks()
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return generator.to(device, memory_format=layout), discriminator.to(device, memory_format=layout)

    def batch(self, device: torch.device) -> Tensor:
        """The reals of one game step, the same ones in every step."""
        torch.manual_seed(1)
        reals = self.reals(self.batch_size * self.discriminator_steps).to(device)
        return reals.to(memory_format=torch.channels_last) if self.channels_last else reals


def _gaussians(n: int) -> Tensor:
    return GaussiansDataModule(num_points=n).reference_points()


def _images(n: int, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(n, channels, size, size) * 2 - 1


def _mlp() -> tuple[nn.Module, nn.Module]:
    return MLPGenerator(), MLPDiscriminator()


def _sngan() -> tuple[nn.Module, nn.Module]:
    return SNGANGenerator(), SNGANDiscriminator()


def _dcgan() -> tuple[nn.Module, nn.Module]:
    sizes: dict[str, Any] = {"channels": 3, "image_size": 32, "width": 64}
    return DCGANGenerator(latent_dim=128, **sizes), DCGANDiscriminator(**sizes)


def _digits() -> tuple[nn.Module, nn.Module]:
    sizes: dict[str, Any] = {"channels": 1, "image_size": 8, "width": 24}
    return DCGANGenerator(latent_dim=32, **sizes), DCGANDiscriminator(**sizes)


def workloads(batch_size: int, *, on_gpu: bool) -> dict[str, Workload]:
    """Name -> workload.

    Args:
        batch_size: images of one discriminator update of the residual networks.
        on_gpu: add rows in bf16, and in bf16 with channels last.
    """
    sngan = Workload("SNGAN-ResNet32, n = 1", _sngan, _images, 128, "hinge", batch_size)
    several = {"discriminator_steps": 5, "generator_batch_size": 2 * batch_size}
    found = {
        "mlp": Workload("MLP 2000 on 8 Gaussians, n = 1", _mlp, _gaussians, 64, "non_saturating", 256),
        "dcgan": Workload("DCGAN at 32 × 32, n = 1", _dcgan, _images, 128, "non_saturating", 64),
        "digits": Workload(
            "DCGAN of the digits recipe, n = 1",
            _digits,
            partial(_images, channels=1, size=8),
            32,
            "non_saturating",
            64,
            betas=(0.5, 0.9),
        ),
        "sngan1": sngan,
        "sngan5": replace(sngan, title="SNGAN-ResNet32, n = 5", **several),
    }
    if on_gpu:
        for name in ("dcgan", "sngan1", "sngan5"):
            half = replace(found[name], title=f"{found[name].title}, bf16", precision="bf16-mixed")
            found[f"{name}-bf16"] = half
            found[f"{name}-bf16-cl"] = replace(half, title=f"{half.title}, channels last", channels_last=True)
    return found

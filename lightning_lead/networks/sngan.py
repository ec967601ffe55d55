"""Residual generator and discriminator for images of 32×32, as in spectral-normalization GANs on CIFAR-10.

    G: z ─Linear→ 4×4 @ w ─[up block]×3→ 32×32 @ w ─norm, ReLU, conv3, tanh→ image in [−1, 1]
    D: image ─first block ÷2→ w ─block ÷2→ w ─block→ w ─block→ w ─ReLU, sum over pixels→ φ ─linear, no bias→ logit

    up block     x ↦ up(conv1(x)) + conv3(ReLU(norm(conv3(up(ReLU(norm(x)))))))
    down block   x ↦ conv1(pool(x)) + pool(conv3(ReLU(conv3(ReLU(x)))))         the first block without its first ReLU

A 1×1 convolution commutes with nearest upsampling and with average pooling, so it runs on the smaller side of both: the
same function for a quarter of the arithmetic. Every layer of D is divided by its spectral norm. Weights start from
Xavier's uniform distribution, with gain √2 for the 3×3 convolutions of residual blocks; biases from zero.

Reference: Miyato, Kataoka, Koyama and Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018,
appendix B.4, table 4. The default sizes are those of the LEAD authors' experiment on CIFAR-10.
"""

from __future__ import annotations

import math
from typing import TypeVar, cast, final

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from lightning_lead._errors import ConfigurationError

__all__ = ["SNGANDiscriminator", "SNGANGenerator"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def _check(name: str, **counts: int) -> None:
    for setting, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(
                f"Cannot build {name} because {setting} must be an integer ≥ 1; pass one (got {value!r})."
            )


def _initialized(layer: Layer, *, gain: float = 1.0, normed: bool = False) -> Layer:
    """Xavier weights, zero bias; then the spectral norm, whose first singular vectors should see these weights."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return cast(Layer, with_spectral_norm(layer)) if normed else layer


class _UpBlock(nn.Module):
    """Twice the size, the same channels."""

    def __init__(self, width: int, normalization: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width, normalization), _norm(width, normalization)
        self.conv1 = _initialized(nn.Conv2d(width, width, 3, padding=1), gain=math.sqrt(2))
        self.conv2 = _initialized(nn.Conv2d(width, width, 3, padding=1), gain=math.sqrt(2))
        self.shortcut = _initialized(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(interpolate(relu(self.norm1(x)), scale_factor=2, mode="nearest"))
        h = self.conv2(relu(self.norm2(h)))
        out: Tensor = h + interpolate(self.shortcut(x), scale_factor=2, mode="nearest")
        return out


class _DownBlock(nn.Module):
    """Half the size if `pool`; the first block of a network sees an image, which no ReLU may touch."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool, first: bool, normed: bool) -> None:
        super().__init__()
        self.pool, self.first = pool, first
        self.conv1 = _initialized(nn.Conv2d(inputs, outputs, 3, padding=1), gain=math.sqrt(2), normed=normed)
        self.conv2 = _initialized(nn.Conv2d(outputs, outputs, 3, padding=1), gain=math.sqrt(2), normed=normed)
        learned = pool or inputs != outputs
        self.shortcut = _initialized(nn.Conv2d(inputs, outputs, 1), normed=normed) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(relu(self.conv1(x if self.first else relu(x))))
        if self.pool:
            h, x = avg_pool2d(h, 2), avg_pool2d(x, 2)
        out: Tensor = h + self.shortcut(x)
        return out


@final
class SNGANGenerator(nn.Module):
    """Latents to 32×32 images in (−1, 1).

    Args:
        latent_dim: size of a latent, ≥ 1.
        channels: of the image, ≥ 1.
        width: channels of every block, ≥ 1.
        normalization: "batch", or "none" (for comparisons across ranks, where batch statistics are local).

    Raises:
        ConfigurationError: a size below one, or an unknown normalization.

    Example:
        >>> import torch
        >>> generator = SNGANGenerator()
        >>> sum(p.numel() for p in generator.parameters())
        4276739
        >>> SNGANGenerator(width=4)(torch.zeros(2, 128)).shape
        torch.Size([2, 3, 32, 32])
    """

    num_classes: int | None = None

    def __init__(
        self, *, latent_dim: int = 128, channels: int = 3, width: int = 256, normalization: str = "batch"
    ) -> None:
        super().__init__()
        _check("SNGANGenerator", latent_dim=latent_dim, channels=channels, width=width)
        if normalization not in ("batch", "none"):
            raise ConfigurationError(
                "Cannot build SNGANGenerator because its normalization is unknown; pass 'batch' or 'none' "
                f"(got {normalization!r})."
            )
        self.latent_dim = latent_dim
        self.stem = _initialized(nn.Linear(latent_dim, width * 4 * 4))
        self.blocks = nn.Sequential(*(_UpBlock(width, normalization) for _ in range(3)))
        self.norm = _norm(width, normalization)
        self.head = _initialized(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """Images (n, channels, 32, 32) in (−1, 1).

        Args:
            latents: (n, latent_dim).
        """
        h = self.blocks(self.stem(latents).unflatten(1, (-1, 4, 4)))
        images: Tensor = self.head(relu(self.norm(h))).tanh()
        return images


@final
class SNGANDiscriminator(nn.Module):
    """32×32 images to logits; treats samples one by one.

    Args:
        channels: of the image, ≥ 1.
        width: channels of every block, ≥ 1.
        spectral_norm: divide each weight by its largest singular value, estimated by one step of power iteration per
            forward in train mode.

    Raises:
        ConfigurationError: a size below one.

    Example:
        >>> import torch
        >>> discriminator = SNGANDiscriminator()
        >>> sum(p.numel() for p in discriminator.parameters())
        1053824
        >>> SNGANDiscriminator(width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    num_classes: int | None = None

    def __init__(self, *, channels: int = 3, width: int = 128, spectral_norm: bool = True) -> None:
        super().__init__()
        _check("SNGANDiscriminator", channels=channels, width=width)
        self.blocks = nn.Sequential(
            _DownBlock(channels, width, pool=True, first=True, normed=spectral_norm),
            _DownBlock(width, width, pool=True, first=False, normed=spectral_norm),
            _DownBlock(width, width, pool=False, first=False, normed=spectral_norm),
            _DownBlock(width, width, pool=False, first=False, normed=spectral_norm),
        )
        self.head = _initialized(nn.Linear(width, 1, bias=False), normed=spectral_norm)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n,); positive means "real".

        Args:
            images: (n, channels, 32, 32), in [−1, 1].
        """
        features = relu(self.blocks(images)).sum((2, 3))  # (n, width)
        logits: Tensor = self.head(features).squeeze(1)
        return logits


def _norm(width: int, normalization: str) -> nn.Module:
    return nn.BatchNorm2d(width) if normalization == "batch" else nn.Identity()

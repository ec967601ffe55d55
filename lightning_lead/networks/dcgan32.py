"""The DCGAN of the LEAD authors' CIFAR-10 code: strided convolutions all the way, 32×32.

    G: z ─convT4→ 4×4 @ 4w ─norm, ReLU, convT4 ×2→ 2w ─norm, ReLU, convT4 ×2→ w ─norm, ReLU, convT4 ×2, tanh→ image
    D: image ─conv4 ÷2→ w ─leaky ReLU, conv4 ÷2, norm→ 2w ─leaky ReLU, conv4 ÷2, norm→ 4w ─leaky ReLU, conv4→ logit

with w = 256: G 100 → 1024 → 512 → 256 → 3, D 3 → 256 → 512 → 1024 → 1. Norms are batch norms, so a logit depends on its
neighbours in the batch, and reals and fakes are passed apart. Convolutions in front of a norm have no bias: the norm
would subtract it again. `DCGANGenerator` of this package is another network, with a linear stem and a 3×3 head.

References: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", ICLR 2016; Askari Hemmat et al., "LEAD", TMLR 2023, whose experiment has these sizes.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._configured import ConfiguredModule
from lightning_lead._errors import ConfigurationError

__all__ = ["DCGAN32Discriminator", "DCGAN32Generator"]


def _check(name: str, **counts: int) -> None:
    for setting, value in counts.items():
        if value < 1:
            raise ConfigurationError(
                f"Cannot build {name} because {setting} must be an integer ≥ 1; pass one (got {value!r})."
            )


@final
class DCGAN32Generator(ConfiguredModule):
    """Latents to 32×32 images in (−1, 1).

    Args:
        latent_dim: size of a latent, ≥ 1.
        channels: of the image, ≥ 1.
        width: channels in front of the last layer, ≥ 1; four times as many behind the first one.

    Raises:
        ConfigurationError: a size below one.

    Example:
        >>> import torch
        >>> sum(p.numel() for p in DCGAN32Generator().parameters())
        12140035
        >>> DCGAN32Generator(width=2)(torch.zeros(2, 100)).shape
        torch.Size([2, 3, 32, 32])
    """

    num_classes: int | None = None

    def __init__(self, *, latent_dim: int = 100, channels: int = 3, width: int = 256) -> None:
        check_arguments(DCGAN32Generator, locals())
        super().__init__()
        _check("DCGAN32Generator", latent_dim=latent_dim, channels=channels, width=width)
        self.latent_dim = latent_dim
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, 4 * width, 4, bias=False)]
        for wide in (4 * width, 2 * width):
            up = nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=False)
            layers += [nn.BatchNorm2d(wide), nn.ReLU(), up]
        last = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), last, nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """Images (n, channels, 32, 32) in (−1, 1).

        Args:
            latents: (n, latent_dim).
        """
        images: Tensor = self.layers(latents[:, :, None, None])
        return images


@final
class DCGAN32Discriminator(ConfiguredModule):
    """32×32 images to logits.

    Args:
        channels: of the image, ≥ 1.
        width: channels behind the first layer, ≥ 1; four times as many in front of the last one.

    Raises:
        ConfigurationError: a size below one.

    Example:
        >>> import torch
        >>> sum(p.numel() for p in DCGAN32Discriminator().parameters())
        10517761
        >>> DCGAN32Discriminator(width=2)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    num_classes: int | None = None

    def __init__(self, *, channels: int = 3, width: int = 256) -> None:
        check_arguments(DCGAN32Discriminator, locals())
        super().__init__()
        _check("DCGAN32Discriminator", channels=channels, width=width)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for wide in (width, 2 * width):
            down = nn.Conv2d(wide, 2 * wide, 4, stride=2, padding=1, bias=False)
            layers += [down, nn.BatchNorm2d(2 * wide), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n,); positive means "real".

        Args:
            images: (n, channels, 32, 32), in [−1, 1].
        """
        logits: Tensor = self.layers(images).flatten()
        return logits

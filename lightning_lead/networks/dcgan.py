"""DCGAN generator and discriminator for square images of 8, 16, 32 or 64 pixels, conditional or not.

    G: z ─Linear→ 4×4 @ 2ᵏw ─[norm, ReLU, transposed conv ×2]→ … → size @ w ─norm, ReLU, conv3, tanh→ image in [−1, 1]
    D: image ─conv3→ size @ w ─[leaky ReLU, conv ÷2]→ … → 4×4 @ 2ᵏw ─leaky ReLU, flatten→ φ ─linear→ logit

with k = log₂(size / 4) doublings and w channels (`width`) at full size; channels halve where the size doubles.
A conditional G reads the latent and a learned code of the label side by side; a conditional D adds the projection

    logit = ψ(φ) + ⟨e(label), φ⟩

References: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", ICLR 2016; Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR
2018; Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018.
"""

from __future__ import annotations

from typing import TypeVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from lightning_lead._arguments import check_arguments
from lightning_lead._configured import ConfiguredModule
from lightning_lead._errors import ConfigurationError
from lightning_lead.networks._labels import check_labels

__all__ = ["DCGANDiscriminator", "DCGANGenerator"]

_SIZES = (8, 16, 32, 64)
_NORMALIZATIONS = ("batch", "none")

Layer = TypeVar("Layer", bound=nn.Module)


def _check(name: str, *, counts: dict[str, int], image_size: int, normalization: str, num_classes: int | None) -> None:
    for setting, value in {**counts, **({} if num_classes is None else {"num_classes": num_classes})}.items():
        if value < 1:
            raise ConfigurationError(
                f"Cannot build {name} because {setting} must be an integer ≥ 1; pass one (got {value!r})."
            )
    if image_size not in _SIZES:
        raise ConfigurationError(
            f"Cannot build {name} because it doubles from 4×4; pass an image_size of "
            f"{', '.join(map(str, _SIZES))} (got {image_size!r})."
        )
    if normalization not in _NORMALIZATIONS:
        raise ConfigurationError(
            f"Cannot build {name} because its normalization is unknown; pass one of {', '.join(_NORMALIZATIONS)} "
            f"(got {normalization!r})."
        )


@final
class DCGANGenerator(ConfiguredModule):
    """Latents to images in (−1, 1).

    Args:
        latent_dim: size of a latent, ≥ 1.
        channels: of the image: 1 for grey, 3 for colour.
        image_size: pixels along one side: 8, 16, 32 or 64.
        width: channels at full size, ≥ 1.
        num_classes: number of labels of a conditional generator; None for an unconditional one.
        normalization: "batch", or "none" (for comparisons across ranks, where batch statistics are local).

    Raises:
        ConfigurationError: a size out of its range; in `forward`, labels that are missing or do not fit.

    Example:
        At the size of scikit-learn's digits:

        >>> import torch
        >>> generator = DCGANGenerator(latent_dim=64, channels=1, image_size=8, width=32)
        >>> sum(p.numel() for p in generator.parameters())
        99809
        >>> generator(torch.zeros(2, 64)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        channels: int = 1,
        image_size: int = 8,
        width: int = 32,
        num_classes: int | None = None,
        normalization: str = "batch",
    ) -> None:
        check_arguments(DCGANGenerator, locals())
        super().__init__()
        _check(
            "DCGANGenerator",
            counts={"latent_dim": latent_dim, "channels": channels, "width": width},
            image_size=image_size,
            normalization=normalization,
            num_classes=num_classes,
        )
        self.latent_dim, self.num_classes = latent_dim, num_classes
        doublings = _SIZES.index(image_size) + 1
        deepest = width * 2**doublings
        # the code of a label is as long as the latent, so that at the start neither of them drowns the other
        self.label_code = nn.Embedding(num_classes, latent_dim) if num_classes else None
        self.stem = nn.Linear(latent_dim * (2 if num_classes else 1), deepest * 4 * 4)
        blocks: list[nn.Module] = []
        for wide in (deepest // 2**i for i in range(doublings)):
            blocks += [
                *_normalized(wide, normalization),
                nn.ReLU(),
                # a bias in front of a batch norm would be subtracted again
                nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=normalization == "none"),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            *_normalized(width, normalization), nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1), nn.Tanh()
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (n, channels, image_size, image_size) in (−1, 1).

        Args:
            latents: (n, latent_dim).
            labels: (n,) int64, in 0..num_classes−1; only for a conditional generator.
        """
        check_labels("DCGANGenerator", labels, self.num_classes, latents.shape[0])
        if self.label_code is not None:
            latents = torch.cat([latents, self.label_code(labels)], dim=1)  # (n, 2·latent_dim)
        images: Tensor = self.head(self.blocks(self.stem(latents).unflatten(1, (-1, 4, 4))))
        return images


@final
class DCGANDiscriminator(ConfiguredModule):
    """Images to logits.

    Args:
        channels: of the image: 1 for grey, 3 for colour.
        image_size: pixels along one side: 8, 16, 32 or 64.
        width: channels at full size, ≥ 1.
        spectral_norm: divide each weight by its largest singular value, estimated by one step of power iteration per
            forward in train mode.
        num_classes: number of labels of a conditional discriminator; None for an unconditional one.
        normalization: "none", or "batch" on all convolutions but the first. With batch statistics a logit depends on
            its neighbours in the batch.

    Raises:
        ConfigurationError: a size out of its range; in `forward`, labels that are missing or do not fit.

    Example:
        >>> import torch
        >>> discriminator = DCGANDiscriminator(channels=1, image_size=8, width=8, num_classes=10)
        >>> discriminator(torch.zeros(2, 1, 8, 8), torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int = 8,
        width: int = 32,
        spectral_norm: bool = True,
        num_classes: int | None = None,
        normalization: str = "none",
    ) -> None:
        check_arguments(DCGANDiscriminator, locals())
        super().__init__()
        _check(
            "DCGANDiscriminator",
            counts={"channels": channels, "width": width},
            image_size=image_size,
            normalization=normalization,
            num_classes=num_classes,
        )
        self.num_classes = num_classes

        def normed(layer: Layer) -> Layer:
            return cast(Layer, with_spectral_norm(layer)) if spectral_norm else layer

        halvings = _SIZES.index(image_size) + 1
        layers: list[nn.Module] = [normed(nn.Conv2d(channels, width, 3, padding=1)), nn.LeakyReLU(0.2)]
        for wide in (width * 2**i for i in range(halvings)):
            down = nn.Conv2d(wide, 2 * wide, 4, stride=2, padding=1, bias=normalization == "none")
            layers += [normed(down), *_normalized(2 * wide, normalization), nn.LeakyReLU(0.2)]
        features = width * 2**halvings * 4 * 4
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = normed(nn.Linear(features, 1))
        self.projection = normed(nn.Embedding(num_classes, features)) if num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (n,); positive means "real".

        Args:
            images: (n, channels, image_size, image_size), in [−1, 1].
            labels: (n,) int64, in 0..num_classes−1; only for a conditional discriminator.
        """
        check_labels("DCGANDiscriminator", labels, self.num_classes, images.shape[0])
        features = self.features(images)  # (n, 16·2ᵏw)
        logits: Tensor = self.head(features).squeeze(1)
        if self.projection is not None:
            logits = logits + (self.projection(labels) * features).sum(1)
        return logits


def _normalized(channels: int, normalization: str) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if normalization == "batch" else []

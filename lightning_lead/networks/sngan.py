"""Residual generator and discriminator for images of 32×32 or 48×48, as in spectral-normalization GANs.

    G: z ─Linear→ s/8 × s/8 @ w₀ ─[up block]×3→ s×s @ w₃ ─norm, ReLU, conv3, tanh→ image in [−1, 1]
    D: image ─first block ÷2→ … ─block÷2→ … ─block→ … ─ReLU, sum over pixels→ φ ─linear, no bias→ logit

    channels     s = 32 (CIFAR-10)                      s = 48 (STL-10)
    G            256 → 256 → 256 → 256                  512 → 256 → 128 → 64
    D            ÷128, ÷128, 128, 128                   ÷64, ÷128, ÷256, ÷512, 1024

The blocks are those of `networks.residual`. Every layer of D is divided by its spectral norm. Weights start from
Xavier's uniform distribution, with gain √2 for the 3×3 convolutions of residual blocks; biases from zero.

A conditional G has norms of the sample's class inside its blocks, and a common one at the end; a conditional D adds a
projection (see `networks.labels`).

References: Miyato, Kataoka, Koyama and Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR
2018, appendix B.4, tables 4 and 5; Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018. The default
sizes are those of the LEAD authors' experiment on CIFAR-10.
"""

from __future__ import annotations

from itertools import pairwise
from typing import final

from torch import Tensor, nn
from torch.nn.functional import relu

from lightning_lead._arguments import check_arguments
from lightning_lead._configured import ConfiguredModule
from lightning_lead._errors import ConfigurationError
from lightning_lead.networks._labels import check_labels, projected
from lightning_lead.networks._residual import DownBlock, UpBlock, initialized, norm

__all__ = ["SNGANDiscriminator", "SNGANGenerator"]

_UP = {32: (1, 1, 1, 1), 48: (8, 4, 2, 1)}  # image size -> channels of G, from the stem on, relative to the last
_DOWN = {32: (1, 1, 1, 1), 48: (1, 2, 4, 8, 16)}  # image size -> channels of D's blocks, relative to the first
_POOLED = {32: 2, 48: 4}  # image size -> how many of D's blocks halve it
_WIDTHS = {32: (256, 128), 48: (512, 64)}  # image size -> published width of G and of D


def _width(name: str, player: int, image_size: int, width: int | None, **counts: int | None) -> int:
    """The width, after a look at all numbers."""
    if image_size not in _WIDTHS:
        raise ConfigurationError(
            f"Cannot build {name} because its blocks are known for two sizes; pass an image_size of 32 or 48 "
            f"(got {image_size!r})."
        )
    width = _WIDTHS[image_size][player] if width is None else width
    for setting, value in {**counts, "width": width}.items():
        if value is not None and value < 1:
            raise ConfigurationError(
                f"Cannot build {name} because {setting} must be an integer ≥ 1; pass one (got {value!r})."
            )
    return width


@final
class SNGANGenerator(ConfiguredModule):
    """Latents to images in (−1, 1).

    Args:
        latent_dim: size of a latent, ≥ 1.
        channels: of the image, ≥ 1.
        width: channels behind the first linear layer, ≥ 1; default 256 at 32×32, which all blocks keep, and 512 at
            48×48, where each block halves them, so that 8 must divide it.
        image_size: pixels along one side, 32 or 48.
        num_classes: number of labels of a conditional generator, ≥ 1; None for an unconditional one.
        normalization: "batch", or "none" (for comparisons across ranks, where batch statistics are local).
        upsampling: "nearest", or "bilinear", for weights that were trained so.

    Raises:
        ConfigurationError: a size out of its range, or an unknown normalization or upsampling; in `forward`, labels
            that are missing or do not fit.

    Example:
        >>> import torch
        >>> sum(p.numel() for p in SNGANGenerator().parameters())
        4276739
        >>> sum(p.numel() for p in SNGANGenerator(num_classes=10).parameters())
        4304387
        >>> sum(p.numel() for p in SNGANGenerator(image_size=48).parameters())
        4878083
        >>> SNGANGenerator(width=4)(torch.zeros(2, 128)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        *,
        latent_dim: int = 128,
        channels: int = 3,
        width: int | None = None,
        image_size: int = 32,
        num_classes: int | None = None,
        normalization: str = "batch",
        upsampling: str = "nearest",
    ) -> None:
        check_arguments(SNGANGenerator, locals())
        super().__init__()
        counts = {"latent_dim": latent_dim, "channels": channels, "num_classes": num_classes}
        width = _width("SNGANGenerator", 0, image_size, width, **counts)
        for setting, value, known in (
            ("normalization", normalization, ("batch", "none")),
            ("upsampling", upsampling, ("nearest", "bilinear")),
        ):
            if value not in known:
                raise ConfigurationError(
                    f"Cannot build SNGANGenerator because its {setting} is unknown; pass {known[0]!r} or {known[1]!r} "
                    f"(got {value!r})."
                )
        if width % _UP[image_size][0]:
            raise ConfigurationError(
                f"Cannot build SNGANGenerator because at image_size={image_size} its channels are halved three times; "
                f"pass a width that {_UP[image_size][0]} divides (got {width})."
            )
        self.latent_dim, self.num_classes, self.side = latent_dim, num_classes, image_size // 8
        widths = [width * share // _UP[image_size][0] for share in _UP[image_size]]
        self.stem = initialized(nn.Linear(latent_dim, width * self.side**2))
        self.blocks = nn.ModuleList(
            UpBlock(inputs, outputs, normalization, num_classes, upsampling) for inputs, outputs in pairwise(widths)
        )
        self.norm = norm(widths[-1], normalization)
        self.head = initialized(nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (n, channels, image_size, image_size) in (−1, 1).

        Args:
            latents: (n, latent_dim).
            labels: (n,) int64, in 0..num_classes−1; only for a conditional generator.
        """
        check_labels("SNGANGenerator", labels, self.num_classes, latents.shape[0])
        h: Tensor = self.stem(latents).unflatten(1, (-1, self.side, self.side))
        for block in self.blocks:
            h = block(h, labels)
        images: Tensor = self.head(relu(self.norm(h))).tanh()
        return images


@final
class SNGANDiscriminator(ConfiguredModule):
    """Images to logits; treats samples one by one.

    Args:
        channels: of the image, ≥ 1.
        width: channels of the first block, ≥ 1; default 128 at 32×32, which all blocks keep, and 64 at 48×48, where
            each block doubles them.
        image_size: pixels along one side, 32 or 48.
        num_classes: number of labels of a conditional discriminator, ≥ 1; None for an unconditional one.
        spectral_norm: divide each weight by its largest singular value, estimated by one step of power iteration per
            forward in train mode.

    Raises:
        ConfigurationError: a size out of its range; in `forward`, labels that are missing or do not fit.

    Example:
        >>> import torch
        >>> sum(p.numel() for p in SNGANDiscriminator().parameters())
        1053824
        >>> sum(p.numel() for p in SNGANDiscriminator(num_classes=10).parameters())
        1055104
        >>> sum(p.numel() for p in SNGANDiscriminator(image_size=48).parameters())
        19542720
        >>> SNGANDiscriminator(width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int | None = None,
        image_size: int = 32,
        num_classes: int | None = None,
        spectral_norm: bool = True,
    ) -> None:
        check_arguments(SNGANDiscriminator, locals())
        super().__init__()
        width = _width("SNGANDiscriminator", 1, image_size, width, channels=channels, num_classes=num_classes)
        self.num_classes = num_classes
        widths = [channels, *(width * share for share in _DOWN[image_size])]
        self.blocks = nn.Sequential(
            *(
                DownBlock(inputs, outputs, pool=at < _POOLED[image_size], first=at == 0, normed=spectral_norm)
                for at, (inputs, outputs) in enumerate(pairwise(widths))
            )
        )
        self.head = initialized(nn.Linear(widths[-1], 1, bias=False), normed=spectral_norm)
        self.projection = (
            initialized(nn.Linear(widths[-1], num_classes, bias=False), normed=spectral_norm) if num_classes else None
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (n,); positive means "real".

        Args:
            images: (n, channels, image_size, image_size), in [−1, 1].
            labels: (n,) int64, in 0..num_classes−1; only for a conditional discriminator.
        """
        check_labels("SNGANDiscriminator", labels, self.num_classes, images.shape[0])
        features = relu(self.blocks(images)).sum((2, 3))  # (n, channels of the last block)
        logits: Tensor = self.head(features).squeeze(1)
        if self.projection is not None and labels is not None:
            logits = logits + projected(self.projection, features, labels)
        return logits

"""Features of small images by two convolutions, the first of which may be rectified by |·|.

    h = relu(W · relu(conv₂(φ(conv₁(x))))),        φ = |·|, which sees edges and not their sign, or relu

With |·| an image and its inversion look much alike. A network of relus alone gives most inverted digits another class
than their own, and domain-adversarial training then aligns each class with a wrong one.

Reference: Jarrett, Kavukcuoglu, Ranzato and LeCun, "What is the Best Multi-Stage Architecture for Object Recognition?",
ICCV 2009, section 2.1 (rectification by the absolute value).
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn.functional import relu

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._configured import ConfiguredModule
from lightning_lead._errors import ConfigurationError

__all__ = ["ConvFeatures"]

_BORDER = 4  # pixels that two convolutions of 3 × 3 take off


@final
class ConvFeatures(ConfiguredModule):
    """Images (n, in_channels, image_size, image_size) to features (n, width), none of which is negative.

    Args:
        in_channels: of the images, ≥ 1.
        image_size: pixels along one side, ≥ 5.
        channels: of the first convolution, ≥ 1; the second has twice as many.
        width: number of features, ≥ 1.
        rectify: |·| after the first convolution in place of relu.

    Raises:
        ConfigurationError: a size out of its range.

    Example:
        >>> import torch
        >>> ConvFeatures(rectify=True)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 64])
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        image_size: int = 8,
        channels: int = 16,
        width: int = 64,
        rectify: bool = False,
    ) -> None:
        check_arguments(ConvFeatures, locals())
        super().__init__()
        check_positive(in_channels=in_channels, image_size=image_size, channels=channels, width=width)
        left = image_size - _BORDER
        if left < 1:
            raise ConfigurationError(
                f"Cannot build ConvFeatures because two convolutions take {_BORDER} pixels off each side; pass an "
                f"image_size > {_BORDER} (got {image_size})"
            )
        self.rectify = rectify
        self.first = nn.Conv2d(in_channels, channels, 3)
        self.second = nn.Conv2d(channels, 2 * channels, 3)
        self.last = nn.Linear(2 * channels * left**2, width)

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, width).

        Args:
            images: (n, in_channels, image_size, image_size).
        """
        edges = self.first(images)
        edges = edges.abs() if self.rectify else relu(edges)
        return relu(self.last(relu(self.second(edges)).flatten(1)))

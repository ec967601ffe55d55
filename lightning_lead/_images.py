"""Images as bytes: by rounding, with what is out of range refused or clamped, and many in one picture.

    byte = round(255 · (x − low) / (high − low)),        clamped to [0, 255]

Truncation instead of rounding darkens every image by half a grey level, which a feature network sees.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from lightning_lead._errors import ConfigurationError

__all__ = ["image_grid", "outside_range", "picture_bytes", "to_uint8"]

RANGE_TOLERANCE = 1e-3
"""Share of the range's width that a value may overshoot it: a quarter of a grey level, which rounding swallows."""
SMALLEST_SIDE = 32
"""Images with fewer pixels a side are enlarged by a whole number, so that a grid of them can be read."""


def to_uint8(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0), *, strict: bool = True) -> Tensor:
    """Turn images into bytes, by rounding.

    Args:
        images: any shape; floats in `value_range`, or bytes, which are returned as they are.
        value_range: the values that become 0 and 255.
        strict: refuse values that are farther outside the range than 1e-3 of its width; otherwise clamp them.

    Returns:
        uint8, of the same shape.

    Raises:
        ConfigurationError: values that are not finite; if strict, values outside the range.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 0.999, 1.0])).tolist()
        [0, 128, 255, 255]
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ConfigurationError(
            f"Cannot read the images because they are neither floats nor bytes; convert them (got {images.dtype})"
        )
    low, high = value_range
    if not bool(images.isfinite().all()):
        raise ConfigurationError(
            "Cannot turn images into bytes because some values are not finite; look for divergence, or mask them "
            f"(got {int((~images.isfinite()).sum())} of {images.numel()})"
        )
    if strict and outside_range(images, value_range):
        raise ConfigurationError(
            f"Cannot turn images into bytes because they leave the declared value_range=({low:g}, {high:g}); declare "
            "the range that the data and the generator really have, or end the generator in tanh or sigmoid "
            f"(got values from {images.min().item():.4g} to {images.max().item():.4g})"
        )
    scaled = (images.float() - low) * (255 / (high - low))
    return scaled.round().clamp(0, 255).to(torch.uint8)


def outside_range(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> int:
    """Count the values that are farther outside the range than 1e-3 of its width.

    Args:
        images: any shape; bytes are never outside.
        value_range: lowest and highest value.

    Example:
        >>> outside_range(torch.tensor([-1.5, -1.001, 0.0, 3.0]))
        2
    """
    if images.dtype == torch.uint8:
        return 0
    low, high = value_range
    slack = RANGE_TOLERANCE * (high - low)
    return int(((images < low - slack) | (images > high + slack)).sum())


def picture_bytes(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Return images (n, C, H, W) as bytes on the CPU: clamped, and black where they are not finite."""
    if images.is_floating_point():
        low, high = value_range
        images = torch.nan_to_num(images, nan=low, posinf=high, neginf=low)
    return to_uint8(images, value_range, strict=False).cpu()


def image_grid(images: Tensor, nrow: int) -> Tensor:
    """Return images (n, 1 or 3, H, W) as one of (3, H', W'), all uint8; small ones are enlarged by a whole number."""
    factor = math.ceil(SMALLEST_SIDE / min(images.shape[-2:]))
    if factor > 1:
        images = interpolate(images, scale_factor=factor, mode="nearest")
    grid: Tensor = make_grid(images, nrow=nrow)
    return grid

"""Residual blocks of spectral-normalization GANs.

    up block     x ↦ up(conv1(x)) + conv3(ReLU(norm(conv3(up(ReLU(norm(x)))))))
    down block   x ↦ conv1(pool(x)) + pool(conv3(ReLU(conv3(ReLU(x)))))         the first block without its first ReLU

A 1×1 convolution commutes with upsampling and with average pooling, so it runs on the smaller side of both: the same
function for a quarter of the arithmetic. Between the two 3×3 convolutions of a block there are as many channels as at
its output, which the paper leaves open.

Reference: Miyato, Kataoka, Koyama and Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018,
appendix B.4.
"""

from __future__ import annotations

import math
from typing import TypeVar, cast, final

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from lightning_lead.networks._labels import ConditionalNorm

__all__ = ["DownBlock", "UpBlock", "initialized", "norm"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def initialized(layer: Layer, *, gain: float = 1.0, normed: bool = False) -> Layer:
    """Xavier weights, zero bias; then the spectral norm, whose first singular vectors should see these weights."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return cast(Layer, with_spectral_norm(layer)) if normed else layer


def norm(width: int, normalization: str, num_classes: int | None = None) -> nn.Module:
    """Batch norm, or a norm of the class, or with "none" what is left of them without statistics."""
    if num_classes is not None:
        return ConditionalNorm(width, num_classes, batch=normalization == "batch")
    return nn.BatchNorm2d(width) if normalization == "batch" else nn.Identity()


@final
class UpBlock(nn.Module):
    """Twice the size."""

    def __init__(self, inputs: int, outputs: int, normalization: str, num_classes: int | None, upsampling: str) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.norm1 = norm(inputs, normalization, num_classes)
        self.norm2 = norm(outputs, normalization, num_classes)
        self.conv1 = initialized(nn.Conv2d(inputs, outputs, 3, padding=1), gain=math.sqrt(2))
        self.conv2 = initialized(nn.Conv2d(outputs, outputs, 3, padding=1), gain=math.sqrt(2))
        self.shortcut = initialized(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n, outputs, 2H, 2W) from (n, inputs, H, W)."""
        known = () if labels is None else (labels,)
        h = self.conv1(self._up(relu(self.norm1(x, *known))))
        h = self.conv2(relu(self.norm2(h, *known)))
        out: Tensor = h + self._up(self.shortcut(x))
        return out

    def _up(self, x: Tensor) -> Tensor:
        smooth = self.upsampling == "bilinear"
        return interpolate(x, scale_factor=2, mode=self.upsampling, align_corners=False if smooth else None)


@final
class DownBlock(nn.Module):
    """Half the size if `pool`; the first block of a network sees an image, which no ReLU may touch."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool, first: bool, normed: bool) -> None:
        super().__init__()
        self.pool, self.first = pool, first
        self.conv1 = initialized(nn.Conv2d(inputs, outputs, 3, padding=1), gain=math.sqrt(2), normed=normed)
        self.conv2 = initialized(nn.Conv2d(outputs, outputs, 3, padding=1), gain=math.sqrt(2), normed=normed)
        learned = pool or inputs != outputs
        self.shortcut = initialized(nn.Conv2d(inputs, outputs, 1), normed=normed) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs, H/2, W/2), or of the size of x."""
        h = self.conv2(relu(self.conv1(x if self.first else relu(x))))
        if self.pool:
            h, x = avg_pool2d(h, 2), avg_pool2d(x, 2)
        out: Tensor = h + self.shortcut(x)
        return out

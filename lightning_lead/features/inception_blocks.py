"""The body of the Inception of 2015-12-05: torchvision's Inception v3 with that graph's pooling.

    blocks 5b–5d, 6b–6e, 7b: the average of 3×3 pixels leaves the padding out of the count
    block 7c:                a maximum of 3×3 pixels instead of the average
    features:                the mean over the last 8×8 pixels, in float32

Layers and their names are torchvision's, so weights of that naming load as they are. torchvision is heavy to import:
this module is loaded when a network is built, and not before.

Reference: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

__all__ = ["inception_body"]


def _average(x: Tensor) -> Tensor:
    return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(InceptionA):
    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(_average(x))], dim=1)


class _BlockC(InceptionC):
    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], dim=1)


class _BlockE(InceptionE):
    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(parts, dim=1)

    def pool(self, x: Tensor) -> Tensor:
        return _average(x)


class _LastBlockE(_BlockE):
    def pool(self, x: Tensor) -> Tensor:
        return max_pool2d(x, 3, stride=1, padding=1)


class _Mean(nn.Module):
    """Mean over the pixels in float32: half precision's rounding would stay in every feature."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=(2, 3), keepdim=True)


def inception_body() -> nn.Module:
    """(n, 3, 299, 299) scaled to about (−1, 1) -> (n, 2048), with random weights."""
    blocks = [BasicConv2d, _BlockA, InceptionB, _BlockC, InceptionD, _BlockE, InceptionAux]
    body: nn.Module = Inception3(num_classes=1, aux_logits=False, init_weights=False, inception_blocks=blocks)
    body.Mixed_7c = _LastBlockE(2048)
    body.avgpool, body.dropout, body.fc = _Mean(), nn.Identity(), nn.Identity()
    return body

"""Enlarging images the way the published scores did, which is not the way of today's libraries.

    TensorFlow 1: source = i · s,                with s = in / out: the first row and column stay where they are
    elsewhere:    source = (i + ½) · s − ½,      the centres of the pixels match

and out = top + (bottom − top) · dy of the rows, in float32, top and bottom likewise along the columns. A neighbour past
the edge is the edge. The first is `tf.image.resize_bilinear(align_corners=False)`; at 32 → 299 the two differ by half a
source pixel, which a feature network sees and an eye does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["resize_tf1"]


def resize_tf1(
    images: Tensor,  # (n, C, H, W), float
    side: int,
) -> Tensor:  # (n, C, side, side)
    """Bilinear interpolation as TensorFlow 1 defines it, to a square."""
    for dim in (3, 2):  # columns first: the order in which TensorFlow rounds
        size = images.shape[dim]
        position = torch.arange(side, dtype=torch.float32, device=images.device) * (size / side)
        low = position.long()
        weight = (position - low).to(images.dtype).view(-1, *[1] * (3 - dim))
        first = images.index_select(dim, low)
        second = images.index_select(dim, (low + 1).clamp_(max=size - 1))
        images = first + (second - first) * weight
    return images

"""Are samples copies of training images? Distances to the nearest one, against those among reals.

d(y): distance of a sample y to the nearest training image x(y); r(x): that of a training image to its nearest other.

    memorization = share of samples with d(y) ≤ the 1st percentile of r    about 0.01 for new images of the same kind
    authenticity = share of samples with d(y) > r(x(y))                    0 for copies; otherwise see held-out images

Memorization is looked at in feature space and in pixel space: a network may not tell a copy from a variation, and
pixels do not see a copy that was moved. Authenticity: Alaa et al., "How Faithful is your Synthetic Data?", 2022.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_lead.callbacks.sample_grid import image_grid

__all__ = [
    "MEMORIZATION_SCORES",
    "QUANTILE",
    "Nearest",
    "beside_nearest",
    "memorization_scores",
    "nearest",
    "pixel_points",
]

MEMORIZATION_SCORES = ("memorization", "memorization_pixels", "authenticity")
QUANTILE = 0.01
"""Of the distances between reals: samples that are nearer to a training image than that are called memorized."""
LARGEST_SIDE = 64
SHOWN = 16
"""Samples in the picture."""


class Nearest(NamedTuple):
    """Who is nearest to each of M samples among N reals, and how near; distances are squared.

    Example:
        >>> Nearest(torch.tensor([1]), torch.tensor([4.0]), torch.tensor([1.0, 1.0])).who
        tensor([1])
    """

    who: Tensor  # (M,): of the nearest real
    distances: Tensor  # (M,): to it
    among_reals: Tensor  # (N,): from each real to its nearest other


def pixel_points(images: Tensor) -> Tensor:
    """Images as what pixel distances are computed from: bytes, averaged down where a side is longer than 64.

    Args:
        images: (n, C, H, W), uint8.

    Example:
        >>> pixel_points(torch.zeros(2, 3, 128, 32, dtype=torch.uint8)).shape
        torch.Size([2, 3, 64, 32])
    """
    height, width = images.shape[-2:]
    size = min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)
    if size == (height, width):
        return images
    if not len(images):  # not every device averages nothing
        return images.new_zeros(*images.shape[:-2], *size)
    return adaptive_avg_pool2d(images.float(), size).round().to(torch.uint8)


def nearest(samples: Tensor, reals: Tensor, index: Tensor, among_reals: Tensor, block: int = 4096) -> Nearest:
    """With distances by differences: that of a copy is zero, and not nearly so.

    Args:
        samples: (M, ...).
        reals: (N, ...).
        index: (M,), of the real that is nearest to a sample.
        among_reals: (N,), squared distance from a real to its nearest other.
        block: samples at a time.

    Example:
        >>> nearest(torch.ones(1, 3), torch.zeros(2, 3), torch.tensor([1]), torch.ones(2)).distances.tolist()
        [3.0]
    """
    pairs = zip(samples.split(block), index.split(block), strict=True)
    parts = [(x.double() - reals[i].double()).flatten(1).square().sum(dim=1) for x, i in pairs]
    return Nearest(index, torch.cat(parts), among_reals)


def memorization_scores(features: Nearest, pixels: Nearest) -> dict[str, float]:
    """Memorization in both spaces, and authenticity in that of the features.

    Args:
        features: neighbours in feature space.
        pixels: neighbours in pixel space.

    Example:
        >>> copies = Nearest(torch.tensor([0, 1]), torch.tensor([0.0, 9.0]), torch.tensor([1.0, 1.0, 2.0]))
        >>> memorization_scores(copies, copies)
        {'memorization': 0.5, 'memorization_pixels': 0.5, 'authenticity': 0.5}
    """
    farther = features.distances > features.among_reals[features.who]
    shares = (_share_within(features), _share_within(pixels), int(farther.sum()) / len(farther))
    return dict(zip(MEMORIZATION_SCORES, shares, strict=True))


def beside_nearest(samples: Tensor, reals: Tensor, features: Nearest, pixels: Nearest) -> Tensor | None:
    """A picture of the samples that are nearest to a training image in feature space, from left to right.

    First row: the samples. Second: the training images nearest in feature space. Third: those nearest in pixel space.

    Args:
        samples: (M, C, H, W), uint8.
        reals: (N, C, H, W), uint8.
        features: neighbours in feature space.
        pixels: neighbours in pixel space.

    Returns:
        (3, H', W'), uint8; None if C is neither 1 nor 3.

    Example:
        >>> near = Nearest(torch.tensor([1]), torch.tensor([4.0]), torch.tensor([1.0, 1.0]))
        >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> beside_nearest(images[:1], images, near, near).shape
        torch.Size([3, 104, 36])
    """
    if samples.shape[1] not in (1, 3):
        return None
    shown = features.distances.argsort(stable=True)[:SHOWN]
    rows = [samples[shown], reals[features.who[shown]], reals[pixels.who[shown]]]
    return image_grid(torch.cat(rows).cpu(), nrow=len(shown))


def _share_within(near: Nearest) -> float:
    among = near.among_reals
    threshold = among.kthvalue(max(1, math.ceil(QUANTILE * len(among)))).values
    return int((near.distances <= threshold).sum()) / len(near.distances)

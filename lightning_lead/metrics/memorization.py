"""Memorization: distances of samples to their nearest training images, against those among training images.

d(y): distance of a sample y to the nearest training image x(y); r(x): that of a training image to its nearest other.

    memorization = share of samples with d(y) ≤ the 1st percentile of r    about 0.01 for new images of the same kind
    authenticity = share of samples with d(y) > r(x(y))                    0 for copies; otherwise see held-out images

Both spaces are looked at: a network may not tell a copy from a variation, and pixels do not see a copy that was moved.
Authenticity: Alaa et al., "How Faithful is your Synthetic Data?", 2022.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from lightning_lead._images import image_grid
from lightning_lead.metrics._neighbours import check_neighbours, meet, nearest_squared
from lightning_lead.metrics.base import ImageSet, Score, Statistics

__all__ = ["Memorization"]

QUANTILE = 0.01
"""Of the distances between reals: samples that are nearer to a training image than that are called memorized."""
SHOWN = 16
"""Samples in the picture."""
BLOCK = 4096
"""Samples whose distances are computed at a time."""


@final
class Memorization(Score):
    """Shares of samples that may be copies, in feature space and in pixel space; the reals are the training images.

    Leaves a picture: the samples that are nearest to a training image in feature space, from left to right; below each
    its nearest in feature space, and below that its nearest in pixels.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> images = torch.randint(256, (40, 1, 4, 4), generator=draw, dtype=torch.uint8)
        >>> reals, copies = (ImageSet(features=x.flatten(1).float(), pixels=x) for x in (images, images[:10]))
        >>> score = Memorization()
        >>> reals.statistics = score.prepare(reals)
        >>> score.compute(reals, copies)
        {'memorization': 1.0, 'memorization_pixels': 1.0, 'authenticity': 0.0}
    """

    names = ("memorization", "memorization_pixels", "authenticity")
    keywords = ("memorization",)
    needs = ("features", "pixels")

    def check(self, samples: int, reals: int | None, num_features: int) -> None:
        """Refuse a single image."""
        check_neighbours(1, samples, reals)

    def prepare(self, reals: ImageSet) -> Statistics:
        """Measure r(x) in both spaces, squared."""
        spaces = {"features": reals.features, "pixels": reals.pixels.flatten(1)}
        return {name: nearest_squared(points, 1)[:, 0].contiguous() for name, points in spaces.items()}

    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Return the shares, and leave the picture in `fakes.shared`."""
        nearest_real = fakes.shared.get("nearest_real")  # of PRDC, if it came before
        if nearest_real is None:
            nearest_real = meet(fakes.features, reals.features, {}).nearest_real
        in_pixels = meet(fakes.pixels.flatten(1), reals.pixels.flatten(1), {}).nearest_real
        features = _nearest(fakes.features, reals.features, nearest_real, reals.statistics["features"])
        pixels = _nearest(fakes.pixels, reals.pixels, in_pixels, reals.statistics["pixels"])
        picture = _beside_nearest(fakes.pixels, reals.pixels, features, pixels)
        if picture is not None:
            fakes.shared["picture"] = picture
        farther = features.distances > features.among_reals[features.who]
        shares = (_share_within(features), _share_within(pixels), int(farther.sum()) / len(farther))
        return dict(zip(self.names, shares, strict=True))


class _Nearest(NamedTuple):
    """The nearest of N reals to each of M samples; distances are squared."""

    who: Tensor  # (M,): of the nearest real
    distances: Tensor  # (M,): to it
    among_reals: Tensor  # (N,): from each real to its nearest other


def _nearest(samples: Tensor, reals: Tensor, index: Tensor, among_reals: Tensor) -> _Nearest:
    """Measure by differences, because the distance of a copy has to be zero, and not nearly so."""
    pairs = zip(samples.split(BLOCK), index.split(BLOCK), strict=True)
    parts = [(x.double() - reals[i].double()).flatten(1).square().sum(dim=1) for x, i in pairs]
    return _Nearest(index, torch.cat(parts), among_reals)


def _share_within(near: _Nearest) -> float:
    among = near.among_reals
    threshold = among.kthvalue(max(1, math.ceil(QUANTILE * len(among)))).values
    return int((near.distances <= threshold).sum()) / len(near.distances)


def _beside_nearest(samples: Tensor, reals: Tensor, features: _Nearest, pixels: _Nearest) -> Tensor | None:
    """Three rows in one picture (3, H, W), uint8; None of images that have neither one nor three channels."""
    if samples.shape[1] not in (1, 3):
        return None
    shown = features.distances.argsort(stable=True)[:SHOWN]
    rows = [samples[shown], reals[features.who[shown]], reals[pixels.who[shown]]]
    return image_grid(torch.cat(rows).cpu(), nrow=len(shown))

"""FID: the Fréchet distance between Gaussians with the moments of the features, in float64.

FID = |μ − ν|² + tr(Σ + Π − 2 (Σ Π)^½)                     (Heusel et al., 2017)
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lightning_lead._checks import counted
from lightning_lead._errors import ConfigurationError
from lightning_lead.metrics.base import ImageSet, Moments, Score

__all__ = ["FID"]


@final
class FID(Score):
    """The Fréchet distance of the features; needs their sums alone, and more images than features.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> round(FID().compute(ImageSet(features=x), ImageSet(features=x + 3))["fid"], 6)
        18.0
    """

    names = keywords = ("fid",)
    needs = ("moments",)

    def check(self, samples: int, reals: int | None, num_features: int) -> None:
        """Refuse fewer images than features."""
        for count, what, remedy in counted(samples, reals):
            if count <= num_features:
                raise ConfigurationError(
                    f"Cannot compute FID from fewer {what} than features because the covariance is singular; {remedy} "
                    f"above {num_features} (got {count})"
                )

    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Return "fid"."""
        mu, sigma = _gaussian(reals.moments)
        nu, pi = _gaussian(fakes.moments)
        root = torch.linalg.eigvals(sigma @ pi).sqrt().real.sum()  # the trace of the matrix root
        return {"fid": float((mu - nu).square().sum() + (sigma.trace() + pi.trace()) - 2 * root)}


def _gaussian(moments: Moments) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance."""
    mean = moments.total / moments.number
    return mean, (moments.products - moments.number * torch.outer(mean, mean)) / (moments.number - 1)

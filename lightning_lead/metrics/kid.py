"""KID: the unbiased squared MMD of the features under a cubic kernel, over random subsets, in float64.

    k(x, y) = (x·y / F + 1)³
    MMD² = mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean k(xᵢ, yⱼ)

Bińkowski et al., "Demystifying MMD GANs", 2018.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, counted
from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._rng import private_rng
from lightning_lead.metrics.base import ImageSet, Score

__all__ = ["KID", "SUBSETS", "SUBSET_SIZE"]

SUBSETS, SUBSET_SIZE = 100, 1000


@final
class KID(Score):
    """The kernel distance, as a mean over subsets; its deviation over them is "kid_std" in the record.

    Args:
        subsets: random subsets, ≥ 1; drawn by the seed of the samples.
        subset_size: images in each, from 2 to how many there are.

    Example:
        >>> x = torch.arange(6.0).view(3, 2)
        >>> KID(subsets=1, subset_size=3).compute(ImageSet(features=x), ImageSet(features=x + 9))["kid"] > 0
        True
    """

    names = keywords = ("kid",)
    needs = ("features",)
    options: ClassVar = {"kid_subsets": "subsets", "kid_subset_size": "subset_size"}

    def __init__(self, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE) -> None:
        check_arguments(KID, locals())
        check_positive(subsets=subsets, subset_size=subset_size)
        self.subsets, self.subset_size = subsets, subset_size

    def check(self, samples: int, reals: int | None, num_features: int) -> None:
        """Refuse subsets that are larger than the whole."""
        for count, what, remedy in counted(samples, reals):
            if not 2 <= self.subset_size <= count:
                raise ConfigurationError(
                    f"Cannot draw KID's subsets because kid_subset_size must be between 2 and the number of {what}, "
                    f"{count}; lower it, or {remedy} (got {self.subset_size})"
                )

    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Return "kid" and "kid_std"."""
        values = []
        with private_rng(fakes.seed):
            for _ in range(self.subsets):  # in torchmetrics' order, from the CPU's generator
                x, y = (_subset(images.features, self.subset_size) for images in (reals, fakes))
                values.append(_squared_mmd(x, y))
        found = torch.stack(values)
        return {"kid": float(found.mean()), "kid_std": float(found.std(unbiased=False))}


def _subset(rows: Tensor, size: int) -> Tensor:
    """Draw rows without replacement, in float64; all rows as such would be gigabytes."""
    return rows[torch.randperm(len(rows))[:size].to(rows.device)].double()


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Sum in torchmetrics' order, for the same last digit; x and y are as many."""
    m, scale = len(x), 1.0 / x.shape[1]
    xx, yy, xy = (((a @ b.T) * scale + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum(dim=-1) - xx.diag()).sum() + (yy.sum(dim=-1) - yy.diag()).sum()
    return within / (m * (m - 1)) - 2 * xy.sum(dim=0).sum() / m**2

"""MIND, the Monge inception distance: the sliced Wasserstein distance of the features, in float64.

    MIND = 3F · mean over unit directions u of ∫₀¹ (Q_u(t) − R_u(t))² dt

Q_u and R_u are the quantile functions of the projections u·x of reals and of fakes, steps over their sorted values; for
as many reals as fakes the integral is the mean squared difference of the sorted values. The factor, with F the width of
a feature, brings the number to the scale of FID.

Berthet et al., "MIND: Monge Inception Distance for Generative Models Evaluation", 2026.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._distributed import combine, shared_blocks
from lightning_lead.calculus._rng import private_rng
from lightning_lead.metrics.base import ImageSet, Score

__all__ = ["MIND"]

BLOCK = 32  # directions at a time: 13 MB of projections of 50,000 images; ranks share the blocks


@final
class MIND(Score):
    """The sliced Wasserstein distance of the features, on the scale of FID; meant for few samples.

    Args:
        projections: random directions, ≥ 1; drawn by the seed of the samples.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> MIND(projections=4).compute(ImageSet(features=x), ImageSet(features=x + 3))  # 3 · 1 · 3²
        {'mind': 27.0}
    """

    names = keywords = ("mind",)
    needs = ("features",)

    def __init__(self, projections: int = 1000) -> None:
        check_arguments(MIND, locals())
        check_positive(projections=projections)
        self.projections = projections

    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Return "mind"."""
        x, y = reals.features.double(), fakes.features.double()
        width = x.shape[1]
        with private_rng(fakes.seed):
            directions = torch.randn(width, self.projections, dtype=torch.float64).to(x.device)
        directions /= directions.norm(dim=0)
        rows, columns, lengths = (part.to(x.device) for part in _steps(len(x), len(y)))
        total = x.new_zeros(())
        for block in shared_blocks(self.projections, BLOCK):
            q, r = ((points @ directions[:, block]).sort(dim=0).values for points in (x, y))
            total += lengths @ (q[rows] - r[columns]).square().sum(dim=1)
        return {"mind": float(3 * width * combine(total) / self.projections)}


def _steps(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pieces of (0, 1] on which both quantile functions are constant: the index in each, and the length.

    Counted in units of 1 / nm, where the steps end at whole numbers.
    """
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    return (ends - 1) // m, (ends - 1) // n, ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)

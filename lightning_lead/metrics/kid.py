"""KID: the unbiased squared MMD under a cubic kernel, over random subsets.

k(x, y) = (x·y / F + 1)³                     (Bińkowski et al., "Demystifying MMD GANs", 2018)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import poly_mmd

from lightning_lead.calculus.noise import private_rng

__all__ = ["PassThrough", "kernel_distance"]


class PassThrough(nn.Module):
    """Stands where torchmetrics expects a feature network, so that images pass the real one only once.

    Args:
        num_features: F.

    Example:
        >>> PassThrough(2)(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """The features as they are."""
        return features


def kernel_distance(reals: Tensor, fakes: Tensor, *, subsets: int, subset_size: int, seed: int) -> dict[str, float]:
    """Mean and standard deviation over subsets.

    Args:
        reals: (N, F).
        fakes: (M, F).
        subsets: how many, ≥ 1.
        subset_size: samples in each, from 2 to the smaller of N and M.
        seed: of the subsets.

    Example:
        >>> x = torch.arange(6.0).view(3, 2)
        >>> kernel_distance(x, x + 9, subsets=1, subset_size=3, seed=0)["kid"] > 0
        True
    """
    values = []
    with private_rng(seed):
        for _ in range(subsets):  # as torchmetrics' KernelInceptionDistance draws them, from the CPU's generator
            x, y = (_subset(rows, subset_size) for rows in (reals, fakes))
            values.append(poly_mmd(x, y))
    found = torch.stack(values)
    return {"kid": float(found.mean()), "kid_std": float(found.std(unbiased=False))}


def _subset(rows: Tensor, size: int) -> Tensor:
    """Rows drawn without replacement, in float64; all rows as such would be gigabytes."""
    return rows[torch.randperm(len(rows))[:size].to(rows.device)].double()

"""KID: the unbiased squared MMD under a cubic kernel, over random subsets.

k(x, y) = (x·y / F + 1)³                     (Bińkowski et al., "Demystifying MMD GANs", 2018)
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_lead.calculus.noise import private_rng

__all__ = ["PassThrough", "kernel_distance"]


class PassThrough(nn.Module):
    """Stands where torchmetrics expects a feature network, so that images pass the real one only once.

    Args:
        num_features: F.

    Example:
        >>> import torch
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
        >>> import torch
        >>> x = torch.arange(6.0).view(3, 2)
        >>> kernel_distance(x, x + 9, subsets=1, subset_size=3, seed=0)["kid"] > 0
        True
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        kid = KernelInceptionDistance(
            PassThrough(reals.shape[1]),
            subsets=subsets,
            subset_size=subset_size,
            sync_on_compute=False,  # every rank has all rows already
        )
    kid.to(reals.device)
    kid.update(reals.double(), real=True)
    kid.update(fakes.double(), real=False)
    with private_rng(seed):  # the subsets come from the global generator of the CPU
        mean, deviation = kid.compute()
    return {"kid": float(mean), "kid_std": float(deviation)}

"""The rate of a linear iteration, measured on points of its path."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["leading_radius"]


def leading_radius(path: Tensor, *, leading: int = 2) -> float:
    """The largest modulus of the leading eigenvalues, from the last points, shape (t, n).

    Once the others have died away, points follow a recurrence, z(t + 2) = a z(t + 1) + b z(t) for two of them, whose
    roots they are; its coefficients are found by least squares. Where a pair turns, the slope of the logarithm of the
    distance tells as much only after many turns.
    """
    last = path[-2 * leading :] / path[-2 * leading :].abs().max()
    before = torch.stack([last[k : k + leading].flatten() for k in reversed(range(leading))], dim=1)
    companion = torch.zeros(leading, leading, dtype=torch.float64).diagonal_scatter(torch.ones(leading - 1), -1)
    companion[0] = torch.linalg.lstsq(before, last[leading:].flatten()).solution
    return float(torch.linalg.eigvals(companion).abs().max())

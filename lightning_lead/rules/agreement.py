"""How well LEAD's extrapolated form agrees with the first-order term that it stands for.

    e = ∇_i L_i(θ_i, θ_j + a·Δ_j) − g_i      against      a·c_i,  in own form, or in difference form
    agreement = 1 − |e − a·c| / |a·c|

1 where they are equal, as on every quadratic game; 0 where nothing of the term is left; negative where they differ by
more than the term. Both are averages over ranks, so the agreement is one number for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lightning_lead._typing import Vector
from lightning_lead.calculus.players import norm, weighted_sum

__all__ = ["FormRecord", "agreement"]


class FormRecord(NamedTuple):
    """Where a player's self-checking form stands.

    Example:
        >>> FormRecord().extrapolates
        True
    """

    turns: int = 0  # with a coupled opponent that has moved
    agreement: float = 1.0  # as it was last measured
    extrapolates: bool = True  # the form in force


def agreement(plain: Vector, extrapolated: Vector, reference: Vector) -> float:
    """Return 1 − |e − a·c| / |a·c|, from three directions at one point; waits for the device.

    Args:
        plain: g_i.
        extrapolated: g_i + e.
        reference: g_i + a·c_i, of the same shapes.

    Returns:
        A number ≤ 1; 1 where both corrections are zero, −inf where the reference's alone is.

    Example:
        >>> zero, one, two = ((torch.tensor([float(k)]),) for k in range(3))
        >>> agreement(zero, two, one), agreement(zero, one, one)
        (0.0, 1.0)
    """
    off = norm(weighted_sum([(1.0, extrapolated), (-1.0, reference)]))
    size = norm(weighted_sum([(1.0, reference), (-1.0, plain)]))
    off, size = torch.stack([off, size]).tolist()
    return 1.0 - (off / size if size else 0.0 if off == 0 else float("inf"))

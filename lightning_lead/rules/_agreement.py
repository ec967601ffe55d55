"""The agreement of LEAD's extrapolated form with the first-order term that it stands for.

    e = ∇_i L_i(θ_i, θ_j + a·Δ_j) − g_i      against      a·c_i,  in own form, or in difference form
    agreement = 1 − |e − a·c| / |a·c|,  at least −1

1 where they are equal, as on every quadratic game; 0 where nothing of the term is left; negative where they differ by
more than the term. Both are averages over ranks, so the agreement is one number for all of them. A batch tells it with
noise, so the running agreement is the mean of a new measurement and of itself before.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from lightning_lead._types import Vector
from lightning_lead.calculus._players import norm, weighted_sum

__all__ = ["FormRecord", "agreement"]


class FormRecord(NamedTuple):
    """The state of a player's self-checking form."""

    turns: int = 0  # with a coupled opponent that has moved
    agreement: float = 1.0  # half the last measurement, half what it was before
    extrapolates: bool = True  # the form in force

    def after(self, measured: float, least: float) -> FormRecord:
        """Return the record after a measurement, and with it the form in force."""
        if math.isnan(measured):
            return FormRecord(self.turns)
        agreed = (self.agreement + measured) / 2 if self.turns else measured
        return self._replace(agreement=agreed, extrapolates=agreed >= least)


def agreement(plain: Vector, extrapolated: Vector, reference: Vector) -> float:
    """Return 1 − |e − a·c| / |a·c|, from three directions at one point; waits for the device."""
    off = norm(weighted_sum([(1.0, extrapolated), (-1.0, reference)]))
    size = norm(weighted_sum([(1.0, reference), (-1.0, plain)]))
    off, size = torch.stack([off, size]).tolist()
    if not math.isfinite(size):
        return math.nan
    return max(-1.0, 1.0 - (off / size if size else 0.0 if off == 0 else math.inf))

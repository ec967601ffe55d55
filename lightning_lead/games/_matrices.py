"""Checks of the matrices that games are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError

__all__ = ["as_coupling", "require_unique_equilibrium"]


def as_coupling(
    entries: Tensor | Sequence[Sequence[float]],  # (n, m)
    *,
    dtype: torch.dtype,
    owner: str,
) -> Tensor:  # (n, m)
    """A constant matrix A of its own from what a user passed."""
    result = torch.as_tensor(entries, dtype=dtype).detach().clone()
    if result.ndim != 2 or not bool(torch.isfinite(result).all()):
        raise ConfigurationError(
            f"Cannot build {owner} because coupling, A, is of every entry of x with every entry of y; pass a finite "
            f"matrix of shape (n, m) (got shape {tuple(result.shape)}"
            f"{', with non-finite entries' if result.ndim == 2 else ''})."
        )
    return result


def require_unique_equilibrium(coupling: Tensor, *, owner: str) -> None:
    """Refuse a matrix under which the origin is not the only equilibrium of xᵀAy."""
    n, m = coupling.shape
    rank = int(torch.linalg.matrix_rank(coupling))
    if not n == m == rank:
        raise ConfigurationError(
            f"Cannot build {owner} because without curvature only a square matrix of full rank has a single "
            f"equilibrium to measure the distance from; pass such a matrix (got shape {(n, m)} and rank {rank})."
        )

"""Distances to nearest neighbours, and who meets whom between two sets of points.

Distances are computed in float64, tile by tile: memory grows with the number of points, not with its square. Ranks
share the tiles, and all get the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lead._checks import counted
from lightning_lead._distributed import combine, shared_blocks
from lightning_lead._errors import ConfigurationError

__all__ = ["Meeting", "check_neighbours", "meet", "nearest_squared"]

ROWS, COLUMNS = 1024, 8192  # of a tile: 64 MiB of distances


class Meeting(NamedTuple):
    """Facts of the distances between M fakes and N reals, the same on every rank."""

    balls: dict[int, Tensor]  # k -> (M,): in how many B_k of reals a fake is
    reached: Tensor  # (N,): whether a real is in some ball of a fake
    nearest_fake: Tensor  # (N,): squared distance from a real to the nearest fake
    nearest_real: Tensor  # (M,): index of the real that is nearest to a fake


def check_neighbours(k: int, samples: int, reals: int | None) -> None:
    """Refuse sets of no more than k images."""
    for count, what, remedy in counted(samples, reals):
        if count <= k:
            raise ConfigurationError(
                f"Cannot look for {k} nearest neighbours because there are too few {what}; {remedy} above {k}, or "
                f"lower precision_k and density_k (got {count})"
            )


def nearest_squared(points: Tensor, k: int) -> Tensor:
    """Return the squared distances (N, k), float64, from every point (N, F) to its k < N nearest others, ascending.

    All ranks must call it, with the same points.
    """
    found = torch.zeros(len(points), k, dtype=torch.float64, device=points.device)
    for rows in shared_blocks(len(points), ROWS):
        best = found.new_full((rows.stop - rows.start, 0), 0.0)
        for columns, squared in _tiles(points, rows, points):
            first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
            own = torch.arange(first, max(first, last), device=points.device)
            squared[own - rows.start, own - columns.start] = torch.inf  # nobody is a neighbour of itself
            candidates = torch.cat([best, squared], dim=1)
            best = candidates.topk(min(k, candidates.shape[1]), dim=1, largest=False).values
        found[rows] = best
    return combine(found)


def meet(fakes: Tensor, reals: Tensor, radii: dict[int, Tensor], fake_radius: Tensor | None = None) -> Meeting:
    """Look at every pair of a fake (M, F) and a real (N, F) once; all ranks must call it, with the same.

    Radii are squared: k -> (N,) of the balls around reals, and (M,) of those around fakes.
    """
    balls = {k: torch.zeros(len(fakes), dtype=torch.long, device=fakes.device) for k in radii}
    reached = torch.zeros(len(reals), dtype=torch.long, device=fakes.device)
    nearest_fake = torch.full((len(reals),), torch.inf, dtype=torch.float64, device=fakes.device)
    nearest_real = torch.zeros(len(fakes), dtype=torch.long, device=fakes.device)
    for rows in shared_blocks(len(fakes), ROWS):
        closest = nearest_fake.new_full((rows.stop - rows.start,), torch.inf)
        for columns, squared in _tiles(fakes, rows, reals):
            for k, radius in radii.items():
                balls[k][rows] += (squared <= radius[columns]).sum(dim=1)
            if fake_radius is not None:
                reached[columns] += (squared <= fake_radius[rows, None]).any(dim=0)
            nearest_fake[columns] = nearest_fake[columns].minimum(squared.amin(dim=0))
            least, where = squared.min(dim=1)
            nearer = least < closest
            nearest_real[rows] = torch.where(nearer, where + columns.start, nearest_real[rows])
            closest = torch.where(nearer, least, closest)
    for values in (*balls.values(), reached, nearest_real):
        combine(values)
    return Meeting(balls, reached > 0, combine(nearest_fake, "min"), nearest_real)


def _tiles(left: Tensor, rows: slice, right: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances from some rows of `left` to all of `right`, a block of columns at a time."""
    x = left[rows].double()
    for start in range(0, len(right), COLUMNS):
        y = right[start : start + COLUMNS].double()
        # |x|² + |y|² − 2 x·y loses digits where points are close; float64 has them to spare for float32 features
        squared = (x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1)).addmm_(x, y.T, alpha=-2)
        yield slice(start, start + len(y)), squared.clamp_(min=0)

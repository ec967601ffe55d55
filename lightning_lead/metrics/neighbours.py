"""Scores from nearest neighbours in feature space: precision, recall, density, coverage.

B_k(x; X): the closed ball around x that reaches to the k-th nearest other point of its own set X; reals x_i, fakes y_j.

    precision = share of y_j in some B_k(x_i; X)         recall   = share of x_i in some B_k(y_j; Y)         (k = 3)
    density   = mean over j of #{i: y_j in B_k(x_i; X)} / k
    coverage  = share of x_i with some y_j in B_k(x_i; X)                                                   (k = 5)

Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019; Naeem et al.,
"Reliable Fidelity and Diversity Metrics for Generative Models", 2020. Distances are computed in float64, tile by tile:
memory grows with the number of points, not with its square. Ranks share the tiles, and all get the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lead.callbacks.ranks import combine, shared_blocks

__all__ = ["Meeting", "meet", "nearest_squared", "neighbour_scores"]

ROWS, COLUMNS = 1024, 8192  # of a tile: 64 MiB of distances


class Meeting(NamedTuple):
    """What the distances between all fakes and all reals say, the same on every rank."""

    balls: dict[int, Tensor]  # k -> (M,): in how many B_k of reals a fake is
    reached: Tensor  # (N,): whether a real is in some ball of a fake
    nearest_fake: Tensor  # (N,): squared distance from a real to the nearest fake
    nearest_real: Tensor  # (M,): index of the real that is nearest to a fake


def nearest_squared(points: Tensor, k: int) -> Tensor:
    """Squared distances from every point to its k nearest others, in ascending order; all ranks must call it.

    Args:
        points: (N, F), N > k, of any dtype; the same on every rank.
        k: ≥ 1.

    Returns:
        (N, k), float64.

    Example:
        >>> nearest_squared(torch.tensor([[0.0], [1.0], [3.0]]), k=2).tolist()
        [[1.0, 9.0], [1.0, 4.0], [4.0, 9.0]]
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
    """Look at every pair of a fake and a real once; all ranks must call it.

    Args:
        fakes: (M, F), the same on every rank.
        reals: (N, F), likewise.
        radii: k -> (N,), squared radii of the balls around reals.
        fake_radius: (M,), squared radii of the balls around fakes; None if there are none.

    Example:
        >>> meeting = meet(torch.tensor([[1.0]]), torch.tensor([[0.0], [4.0]]), {1: torch.tensor([1.0, 1.0])})
        >>> meeting.balls[1].tolist(), meeting.nearest_real.tolist(), meeting.nearest_fake.tolist()
        ([1], [0], [1.0, 9.0])
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


def neighbour_scores(
    meeting: Meeting, radii: dict[int, Tensor], *, precision_k: int, density_k: int
) -> dict[str, float]:
    """Precision, recall, density and coverage.

    Args:
        meeting: with balls of both k, and with those of the fakes.
        radii: k -> (N,), squared radii of the balls around reals, as `meet` had them.
        precision_k: of precision and recall.
        density_k: of density and coverage.

    Example:
        >>> reals, fakes = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[0.5], [9.0]])
        >>> radii = {1: nearest_squared(reals, 1)[:, 0]}
        >>> meeting = meet(fakes, reals, radii, nearest_squared(fakes, 1)[:, 0])
        >>> neighbour_scores(meeting, radii, precision_k=1, density_k=1)
        {'precision': 0.5, 'recall': 1.0, 'density': 1.0, 'coverage': 0.6666666666666666}
    """
    return {
        "precision": _mean(meeting.balls[precision_k] > 0),
        "recall": _mean(meeting.reached),
        "density": _mean(meeting.balls[density_k]) / density_k,
        "coverage": _mean(meeting.nearest_fake <= radii[density_k]),
    }


def _mean(values: Tensor) -> float:
    return int(values.sum()) / len(values)


def _tiles(left: Tensor, rows: slice, right: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances from some rows of `left` to all of `right`, a block of columns at a time."""
    x = left[rows].double()
    for start in range(0, len(right), COLUMNS):
        y = right[start : start + COLUMNS].double()
        # |x|² + |y|² − 2 x·y loses digits where points are close; float64 has them to spare for float32 features
        squared = (x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1)).addmm_(x, y.T, alpha=-2)
        yield slice(start, start + len(y)), squared.clamp_(min=0)

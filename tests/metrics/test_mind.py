"""MIND against an optimal assignment of the projected points, one direction at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from lightning_lead import ConfigurationError
from lightning_lead.calculus._rng import private_rng
from lightning_lead.metrics import MIND, ImageSet


def draw(count, seed, shift=0.0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + shift


def dense(reals, fakes, projections, seed):
    """Every point as often as makes both sets equally large, and the cheapest of all assignments, without sorting."""
    with private_rng(seed):
        directions = torch.randn(reals.shape[1], projections, dtype=torch.float64).numpy()
    common = math.lcm(len(reals), len(fakes))
    x, y = (np.repeat(rows.double().numpy(), common // len(rows), axis=0) for rows in (reals, fakes))
    costs = []
    for u in directions.T / np.linalg.norm(directions, axis=0)[:, None]:
        squared = np.subtract.outer(x @ u, y @ u) ** 2
        costs.append(squared[linear_sum_assignment(squared)].mean())
    return 3 * reals.shape[1] * np.mean(costs)


@pytest.mark.parametrize(("reals", "fakes"), [(30, 30), (30, 20), (12, 60), (7, 9)])
def test_equal_to_the_cheapest_assignment(reals, fakes):
    x, y = draw(reals, 0), 0.5 * draw(fakes, 1, shift=1.0)
    got = MIND(projections=5).compute(ImageSet(features=x), ImageSet(features=y, seed=3))
    assert got == {"mind": pytest.approx(dense(x, y, 5, seed=3), rel=1e-12)}


def test_blocks_of_directions_leave_none_out(monkeypatch):
    sets = [ImageSet(features=draw(20, 0)), ImageSet(features=draw(20, 1))]
    whole = MIND(projections=10).compute(*sets)["mind"]
    monkeypatch.setattr("lightning_lead.metrics.mind.BLOCK", 3)
    assert MIND(projections=10).compute(*sets)["mind"] == pytest.approx(whole, rel=1e-12)
    assert MIND(projections=9).compute(*sets)["mind"] != pytest.approx(whole, rel=1e-3)


def test_a_shift_costs_its_square():
    """Of unit directions in F dimensions, (u·s)² is |s|² / F on the mean."""
    x = draw(50, 0)
    found = MIND(projections=4000).compute(ImageSet(features=x), ImageSet(features=x + torch.tensor([2.0, 0, 0, 0])))
    assert found["mind"] == pytest.approx(3 * 4, rel=0.05)
    assert MIND().compute(ImageSet(features=x), ImageSet(features=x.flip(0)))["mind"] < 1e-25


def test_settings():
    assert MIND(projections=7).protocol() == {"mind_projections": 7}
    with pytest.raises(ConfigurationError, match="projections"):
        MIND(projections=0)

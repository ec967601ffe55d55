"""Norms of which torch has no right third derivative are found in a graph, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_lead import DifferentiationError
from lightning_lead.calculus import CrossTerm
from lightning_lead.calculus._terms import HessianTerm
from lightning_lead.calculus._third import wrong_norms
from lightning_lead.calculus.oracle import GameOracle


def standardized(x, dims):
    return (x - x.mean(dims, keepdim=True)) * (x.var(dims, keepdim=True, correction=0) + 1e-5).rsqrt()


def by_groups(x):
    return standardized(x.reshape(5, 2, 2, 3), (2, 3)).reshape(x.shape)


def frozen():
    norm = nn.BatchNorm1d(4)
    norm.running_mean.normal_()
    return norm.eval()


NORMS = {
    "batch": (lambda: nn.BatchNorm1d(4), lambda x: standardized(x, (0, 2)), ["batch norm"]),
    "batch, without running statistics": (
        lambda: nn.BatchNorm1d(4, track_running_stats=False).eval(),
        lambda x: standardized(x, (0, 2)),
        ["batch norm"],
    ),
    "batch, frozen": (frozen, None, []),
    "instance": (lambda: nn.InstanceNorm1d(4), lambda x: standardized(x, (2,)), ["batch norm"]),
    "layer": (lambda: nn.LayerNorm((4, 3)), lambda x: standardized(x, (1, 2)), ["layer norm"]),
    "group": (lambda: nn.GroupNorm(2, 4), by_groups, []),
}


def slope(norm, x):
    """‖∂f/∂x‖², differentiable: a penalty."""
    (grad,) = torch.autograd.grad(norm(x).tanh().square().sum(), x, create_graph=True)
    return grad.square().sum()


def third(norm, x, along):
    (grad,) = torch.autograd.grad(slope(norm, x), x, create_graph=True)
    return torch.autograd.grad((grad * along).sum(), x)[0]


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_is_found_if_its_third_derivative_is_wrong(kind):
    """Some versions of torch raise an error instead."""
    torch.manual_seed(0)
    build, by_hand, found = NORMS[kind]
    norm = build().double()
    x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    along = torch.randn_like(x)
    assert wrong_norms(slope(norm, x), (x,)) == found
    assert not wrong_norms(norm(x).tanh().sum(), (x,))  # holds no derivative
    if by_hand is None:
        mean, variance = norm.running_mean[:, None], norm.running_var[:, None]
        by_hand = lambda x: (x - mean) * (variance + 1e-5).rsqrt()  # noqa: E731
    right = third(by_hand, x, along)
    try:
        got = third(norm, x, along)
    except RuntimeError as error:
        assert "3rd+ order" in str(error)  # noqa: PT017
        assert found
    else:
        assert (float((got - right).norm() / right.norm()) > 1e-3) == bool(found)


def test_a_norm_counts_where_both_players_reach_it():
    x, y, z = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    value = slope(nn.LayerNorm(4).double(), x + y) + (z * x).sum()
    assert wrong_norms(value, (x,), (y, z)) == ["layer norm"]
    assert not wrong_norms(value, (x,), (z,))
    assert not wrong_norms(torch.zeros(()), (x,))


def game(first, second):
    norm = nn.LayerNorm(4).double()

    def losses(point, wanted, *, replay):
        (x,), (y,) = point["x"], point["y"]
        meeting = (x * y).sum()
        return {
            "x": meeting + (slope(norm, x + y) if first else 0.0),
            "y": -meeting + (slope(norm, y + 0.0) if second else 0.0),
        }

    torch.manual_seed(0)
    return GameOracle({name: (torch.randn(5, 4, dtype=torch.float64),) for name in "xy"}, [losses])


@pytest.mark.parametrize("form", ["opponent", "own"])
def test_no_exact_cross_term_holds_a_wrong_third_derivative(form):
    """At any step, for a penalty may begin at any; a penalty on one player alone is on no path to the other."""
    oracle = game(first=True, second=True)
    cross = CrossTerm(1.0, (torch.ones(5, 4, dtype=torch.float64),), form)
    refused, taken = ("y", "x") if form == "opponent" else ("x", "y")
    with pytest.raises(DifferentiationError, match=r"loss of player 'x' twice .* third derivative of layer norm is"):
        oracle.gradient(refused, at=oracle.point, cross=cross)
    oracle.gradient(taken, at=oracle.point, cross=cross)


def test_no_product_of_hessians_holds_a_wrong_third_derivative():
    oracle = game(first=False, second=True)
    ones = (torch.ones(5, 4, dtype=torch.float64),)
    with pytest.raises(DifferentiationError, match="loss of player 'y' twice"):
        oracle.hessian_product("y", [HessianTerm("x", "x", ones), HessianTerm("y", "y", ones)])
    oracle.hessian_product("x", [HessianTerm("y", "y", ones), HessianTerm("x", "y", ones)])

"""Every rule on games whose players live in sets: feasible after every step, and at rest where the game is."""

import itertools

import numpy as np
import pytest
import torch
from host import Host
from rules_under_test import label, rules_under_test
from scipy.optimize import linprog, lsq_linear

from lightning_lead import ConfigurationError
from lightning_lead.constraints import (
    AbstractConstraint,
    Box,
    L2Ball,
    LInfBall,
    NonNegative,
    Simplex,
    check_constraints,
)
from lightning_lead.rules import LEAD, GradientPlay, LookaheadMinmax, NegativeAdam, OptimisticAdam

RULES = rules_under_test()
FREE = [rule for rule in RULES if not rule.needs.unconstrained]
BOUND = [rule for rule in RULES if rule.needs.unconstrained]

A = torch.tensor([[0.6, -0.4, 0.2], [0.3, 0.5, -0.7]], dtype=torch.float64)
B, C = (torch.tensor(v, dtype=torch.float64) for v in ([1.6, -0.3], [0.2, -1.9, 0.4]))


def saddle(point):
    """½|x|² + xᵀAy − ½|y|² + bᵀx + cᵀy; without the box its equilibrium lies outside of it."""
    x, y = point["x"], point["y"]
    value = (x @ x - y @ y) / 2 + x @ A @ y + B @ x + C @ y
    return {"x": value, "y": -value}


def best_reply(pull, low=-1.0, high=1.0):
    """The minimiser of ½|z|² + pullᵀz in a box, by scipy's active sets."""
    return torch.from_numpy(lsq_linear(np.eye(len(pull)), -pull.numpy(), (low, high), method="bvls").x)


def duality_gap(point):
    """The gain of both players by their best replies."""
    x, y = point["x"], point["y"]
    reply_x, reply_y = best_reply(A @ y + B), best_reply(-(A.T @ x) - C)
    worst = saddle({"x": x, "y": reply_y})["x"]
    best = saddle({"x": reply_x, "y": y})["x"]
    return float(worst - best)


def equilibrium():
    x, y = torch.zeros(2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(400):  # replies contract towards each other, slowly enough that a mean is taken
        x, y = 0.5 * (x + best_reply(A @ y + B)), 0.5 * (y + best_reply(-(A.T @ x) - C))
    return {"x": x, "y": y}


REST = equilibrium()
BOXES = {"x": Box(-1.0, 1.0), "y": LInfBall(1.0)}


def test_the_game_s_equilibrium_is_on_the_edge_and_inside_of_it():
    assert duality_gap(REST) < 1e-12
    sizes = torch.cat([REST["x"], REST["y"]]).abs()
    assert (sizes == 1).sum() == 2
    assert (sizes < 0.9).sum() == 3


@pytest.mark.parametrize(("rule", "play"), [(r, p) for r in FREE for p in r.plays], ids=lambda v: getattr(v, "name", v))
def test_a_rule_rests_where_the_constrained_game_does(rule, play):
    host = Host(rule, saddle, REST, lr=0.1, play=play, constraints=BOXES)
    for _ in range(12):
        host.step()
        for name, value in host.values().items():
            # where the gradient is rounding, Adam's quotient is that rounding over ε = 1e-8
            assert (value - REST[name]).abs().max() < (1e-7 if isinstance(rule, NegativeAdam) else 1e-12), label(rule)


@pytest.mark.filterwarnings("ignore:ACGD")  # of a residual that ends just above its tolerance
@pytest.mark.parametrize("rule", BOUND, ids=label)
def test_a_rule_that_is_refused_would_leave_the_equilibrium(rule):
    host = Host(rule, saddle, REST, lr=0.1, constraints=BOXES)
    for _ in range(12):
        host.step()
    assert max(float((value - REST[name]).abs().max()) for name, value in host.values().items()) > 1e-3


@pytest.mark.parametrize(("rule", "play"), [(r, p) for r in FREE for p in r.plays], ids=lambda v: getattr(v, "name", v))
def test_a_rule_comes_to_the_equilibrium_and_never_leaves_the_set(rule, play):
    start = {"x": torch.tensor([0.9, -1.0]).double(), "y": torch.tensor([1.0, 0.3, -0.5]).double()}
    host = Host(rule, saddle, start, lr=0.2, play=play, constraints=BOXES)
    for _ in range(60 if isinstance(rule, NegativeAdam) else 250):
        host.step()
        assert all(value.abs().max() <= 1 for value in host.values().values())
    # Adam's steps do not shrink with the gradient
    assert duality_gap(host.values()) < (0.3 if isinstance(rule, NegativeAdam) else 1e-8), label(rule)


def test_without_the_box_they_leave_it():
    host = Host(GradientPlay(), saddle, REST, lr=0.1)
    for _ in range(50):
        host.step()
    assert max(value.abs().max() for value in host.values().values()) > 1.5


# ---- matrix games on the simplex -------------------------------------------------------------------------------------

PAYOFF = torch.tensor([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)


def matrix_game(point):
    value = point["x"] @ PAYOFF @ point["y"]
    return {"x": value, "y": -value}


def linear_program(payoff):
    """The mixed strategy of the player that minimises xᵀMy, by scipy."""
    n, m = payoff.shape
    found = linprog(
        [*[0.0] * n, 1.0],
        A_ub=np.hstack([payoff.T, -np.ones((m, 1))]),
        b_ub=np.zeros(m),
        A_eq=[[*[1.0] * n, 0.0]],
        b_eq=[1.0],
        bounds=[*[(0, None)] * n, (None, None)],
    )
    return torch.from_numpy(found.x[:n])


def gain(point):
    """The gain of both players by pure strategies."""
    return float((PAYOFF.T @ point["x"]).max() - (PAYOFF @ point["y"]).min())


@pytest.mark.parametrize(("step", "lr"), [("projected", 0.15), ("mirror", 0.5)])
@pytest.mark.parametrize("cross", ["exact", "extrapolated", "difference"])
def test_lead_finds_mixed_strategies_where_plain_play_circles(step, lr, cross):
    start = {name: torch.tensor([0.5, 0.3, 0.2]).double() for name in ("x", "y")}
    sets = {"x": Simplex(step), "y": Simplex(step)}
    found = {}
    for name, rule in (("LEAD", LEAD(2.0, cross=cross)), ("plain", GradientPlay())):
        host = Host(rule, matrix_game, start, lr=lr, constraints=sets, play="alternating")
        for _ in range(300):
            host.step()
            for value in host.values().values():
                assert value.min() >= 0
                assert abs(float(value.sum()) - 1) < 1e-12
        found[name] = host.values()
    assert gain(found["LEAD"]) < 1e-8
    assert gain(found["plain"]) > 0.05
    assert torch.allclose(found["LEAD"]["x"], linear_program(PAYOFF.numpy()), atol=1e-7)
    assert torch.allclose(found["LEAD"]["y"], linear_program(-PAYOFF.numpy().T), atol=1e-7)


def test_a_mirror_step_by_sgd_is_the_exponentiated_gradient():
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    losses = torch.tensor([1.0, -2.0, 0.5]).double()
    host = Host(
        GradientPlay(), lambda p: {"q": losses @ p["q"]}, {"q": weights}, lr=0.7, constraints={"q": Simplex("mirror")}
    )
    host.step()
    expected = weights * torch.exp(-0.7 * losses)
    assert torch.allclose(host.values()["q"], expected / expected.sum(), rtol=0, atol=1e-15)


def test_optimism_of_the_optimizer_s_step_is_optimistic_mirror_descent():
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    pulls = [torch.tensor(v).double() for v in ([1.0, -2.0, 0.5], [0.3, 0.1, -1.0], [0.0, 2.0, 1.0])]
    drawn = iter(pulls)
    sets = {"q": Simplex("mirror")}
    host = Host(OptimisticAdam(), lambda p: {"q": next(drawn) @ p["q"]}, {"q": weights}, lr=0.2, constraints=sets)
    last = pulls[0]
    for pull in pulls:
        host.step()
        weights = weights * torch.exp(-0.2 * (2 * pull - last))
        weights, last = weights / weights.sum(), pull
        assert torch.allclose(host.values()["q"], weights, rtol=0, atol=1e-15)


# ---- the sets --------------------------------------------------------------------------------------------------------

SETS = [
    Box(-0.5, 2.0),
    Box(torch.tensor([[-1.0], [0.0]]), torch.tensor([[0.5], [3.0]])),
    LInfBall(0.7),
    L2Ball(1.3),
    L2Ball(0.4, per_sample=True),
    NonNegative(),
    Simplex(),
]


def members(each, count=400):
    """Points of a set, told without its projection."""
    drawn = 2 * torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    if isinstance(each, Simplex):
        return drawn.softmax(-1)
    if isinstance(each, L2Ball):
        flat = drawn.flatten(-1) if each.per_sample else drawn.flatten(1)
        size = flat.norm(dim=-1, keepdim=True)
        return (flat * (each.radius / size).clamp(max=1)).view_as(drawn)
    if isinstance(each, LInfBall):
        return drawn.clamp(-each.radius, each.radius)
    if isinstance(each, NonNegative):
        return drawn.abs()
    return torch.stack([torch.min(torch.max(d, torch.as_tensor(each.low)), torch.as_tensor(each.high)) for d in drawn])


@pytest.mark.parametrize("each", SETS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_projection_is_the_nearest_point_of_its_set(each, dtype):
    drawn = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        point = (scale * torch.randn(2, 3, generator=drawn)).to(dtype)
        nearest = each.project(point)
        tolerance = 1e3 * torch.finfo(dtype).eps * scale
        assert nearest.shape == point.shape
        assert torch.allclose(each.project(nearest), nearest, atol=tolerance, rtol=0)
        for inside in members(each):
            # variational inequality of a projection: ⟨θ − P(θ), z − P(θ)⟩ ≤ 0 for all z of the set
            assert ((point - nearest) * (inside.to(dtype) - nearest)).sum() <= 10 * tolerance
            assert torch.allclose(each.project(inside.to(dtype)), inside.to(dtype), atol=tolerance, rtol=0)


def test_lead_s_displacement_is_the_move_that_was_made():
    """Pushed against the edge a player has not moved, so its opponent's term is zero."""
    pushed = lambda p: {"x": 5 * p["x"].sum() + (p["x"] * p["y"]).sum(), "y": (p["x"] * p["y"]).sum()}  # noqa: E731
    start = {"x": torch.tensor([-1.0]).double(), "y": torch.tensor([1.0]).double()}
    for rule, play in itertools.product((LEAD(1.0), LEAD(1.0, cross="extrapolated")), ("alternating", "simultaneous")):
        host = Host(rule, pushed, start, lr=0.1, play=play, constraints={"x": Box(-1.0, 1.0)})
        for k in range(1, 4):
            host.step()
            assert host.values()["x"] == -1
            assert torch.allclose(
                host.values()["y"], torch.tensor([1 + 0.1 * k], dtype=torch.float64), rtol=0, atol=1e-15
            )


@pytest.mark.parametrize("first", ["w", "p"])
def test_slow_weights_stay_in_the_set_whoever_moves_last(first):
    """The gradient is the same in every order of play, so the path is."""
    losses = lambda p: {"w": push[0] * p["w"].sum(), "p": p["p"].square().sum()}  # noqa: E731
    start = {name: torch.zeros(1, dtype=torch.float64) for name in (("w", "p") if first == "w" else ("p", "w"))}
    for play in ("alternating", "simultaneous"):
        push, pull = [0.0], iter([-10.0] * 10 + [1.0] * 15)
        host = Host(LookaheadMinmax(5), losses, start, lr=0.1, play=play, constraints={"w": Box(0.0, 1.0)})
        slow, fast = torch.zeros(1).double(), torch.zeros(1).double()
        for k, push[0] in enumerate(pull, start=1):
            host.step()
            fast = (fast - 0.1 * push[0]).clamp(0, 1)
            if k % 5 == 0:
                slow = fast = slow + 0.5 * (fast - slow)
            assert torch.allclose(host.values()["w"], fast, rtol=0, atol=1e-15), (play, k)
            assert 0 <= host.game.state["slow"]["w"][0] <= 1


@pytest.mark.parametrize("tensor", [[1e8, 0.0], [5000.3, 5000.1, 4999.0], [-3e7, -3e7, 2.0], [0.2, 0.8]])
def test_the_simplex_takes_points_of_any_size(tensor):
    found = Simplex().project(torch.tensor(tensor))
    expected = Simplex().project(torch.tensor(tensor, dtype=torch.float64))
    assert abs(float(found.sum()) - 1) < 1e-6
    assert torch.allclose(found.double(), expected, atol=1e-3)  # 5000.3 has three digits behind the point
    assert torch.isnan(Simplex().project(torch.tensor([float("nan"), 1.0]))).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_start_outside_is_refused_in_every_precision(dtype):
    for each, start in ((Box(0.0, 1.0), 3.0), (LInfBall(1.0), 1.2), (NonNegative(), -0.5)):
        with pytest.raises(ConfigurationError, match="lies outside of"):
            check_constraints({"x": each}, {"x": [torch.full((2,), start, dtype=dtype)]})
        check_constraints({"x": each}, {"x": [torch.full((2,), 0.5, dtype=dtype)]})


def test_a_projection_that_is_none_is_refused():
    class Halves(AbstractConstraint):
        def project(self, tensor):
            return tensor / 2

    class Flattens(AbstractConstraint):
        def project(self, tensor):
            return tensor.sum()

    for each, message in ((Halves(), "moves a point again"), (Flattens(), "returned no tensor of the parameter's")):
        with pytest.raises(ConfigurationError, match=message):
            check_constraints({"x": each}, {"x": [torch.ones(2)]})
    with pytest.raises(ConfigurationError, match="it is no player"):
        check_constraints({"z": NonNegative()}, {"x": [torch.ones(2)]})
    with pytest.raises(ConfigurationError, match="is no constraint"):
        check_constraints({"x": 1.0}, {"x": [torch.ones(2)]})

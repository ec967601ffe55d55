"""LEAD against hand-written steps, against optimistic descent-ascent, and against a flipped sign."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_lead import ConfigurationError, LEADStrategy
from lightning_lead.calculus import GameOracle
from lightning_lead.rules import LEAD, GradientPlay

A = np.array([[1.0, 0.3], [-0.2, 0.7]])


class Bilinear:
    """xᵀAy, x minimises; general-sum if `own_scale` is not 1."""

    def losses(self, point, wanted=None, *, replay=False):
        value = point["x"][0] @ torch.from_numpy(A) @ point["y"][0]
        return {"x": value, "y": -value}


def start():
    return {"x": (torch.tensor([1.0, -0.5]).double(),), "y": (torch.tensor([0.25, 2.0]).double(),)}


def play(rule, *, eta, beta, steps, simultaneous, point=None):
    """The rule into SGD with momentum, by torch.optim."""
    point = {k: torch.nn.Parameter(v[0].clone()) for k, v in (point or start()).items()}
    optimizers = {k: torch.optim.SGD([p], lr=eta, momentum=beta) for k, p in point.items()}
    state = rule.init({k: (p,) for k, p in point.items()})
    path = [{k: p.detach().numpy().copy() for k, p in point.items()}]
    for _ in range(steps):
        for players in [["x", "y"]] if simultaneous else [["x"], ["y"]]:
            oracle = GameOracle({k: (p,) for k, p in point.items()}, [Bilinear().losses])
            directions, state = rule.direction(oracle, players, state)
            for player in players:
                point[player].grad = directions[player][0].clone()
                optimizers[player].step()
        path.append({k: p.detach().numpy().copy() for k, p in point.items()})
    return path


@pytest.mark.parametrize("simultaneous", [True, False])
@pytest.mark.parametrize("form", ["opponent", "own"])
def test_steps_equal_the_paper_s_algorithm_written_out_in_numpy(simultaneous, form):
    strategy, settings = LEADStrategy.from_paper(eta=0.1, beta=0.4, alpha=0.07, form=form)
    path = play(strategy.rule, eta=settings.lr, beta=settings.momentum, steps=3, simultaneous=simultaneous)
    eta, beta, alpha = 0.1, 0.4, 0.07
    x, y = path[0]["x"], path[0]["y"]
    x_before, y_before = x, y
    for k in range(1, 4):
        x_new = x + beta * (x - x_before) - eta * A @ y - alpha * A @ (y - y_before)
        # in alternating play y answers the new x, and has seen x move since y's own last update
        x_seen, x_earlier = (x, x_before) if simultaneous else (x_new, x)
        y_new = y + beta * (y - y_before) + eta * A.T @ x_seen + alpha * A.T @ (x_seen - x_earlier)
        x_before, y_before, x, y = x, y, x_new, y_new
        np.testing.assert_allclose(path[k]["x"], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(path[k]["y"], y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cross", ["exact", "difference"])
def test_without_momentum_and_a_of_one_it_is_optimistic_descent_ascent(cross):
    eta = 0.2
    path = play(LEAD(coupling=1.0, cross=cross), eta=eta, beta=0.0, steps=50, simultaneous=True)
    x, y = path[0]["x"], path[0]["y"]
    gx_before, gy_before = A @ y, -A.T @ x
    for k in range(1, 51):
        gx, gy = A @ y, -A.T @ x
        x, y = x - eta * (2 * gx - gx_before), y - eta * (2 * gy - gy_before)
        gx_before, gy_before = gx, gy
        np.testing.assert_allclose(path[k]["x"], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(path[k]["y"], y, rtol=0, atol=1e-12)


def distance(point):
    return math.hypot(*point["x"], *point["y"])


class Flipped:
    """LEAD with the cross term's sign flipped, by reflecting the displacement."""

    def __init__(self, alpha):
        self.rule = LEAD(alpha)

    def init(self, point):
        return self.rule.init(point)

    def direction(self, oracle, players, state):
        plain = {player: oracle.gradient(player) for player in players}
        directions, state = self.rule.direction(oracle, players, state)
        return {k: tuple(2 * p - d for p, d in zip(plain[k], directions[k], strict=True)) for k in players}, state


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_lead_converges_where_the_flipped_sign_and_plain_descent_ascent_diverge(alpha):
    settings = {"eta": 0.4, "beta": 0.0, "steps": 250, "simultaneous": True}
    first = distance(start() | {k: v[0].numpy() for k, v in start().items()})
    assert distance(play(Flipped(alpha), **settings)[-1]) > 1e2 * first
    assert distance(play(GradientPlay(), **settings)[-1]) > 1e2 * first
    if alpha == 1.0:
        assert distance(play(LEAD(alpha), **settings)[-1]) < 1e-3 * first


def test_strong_alternating_coupling_with_momentum_contracts_fast():
    path = play(LEAD(coupling=4.5), eta=0.15, beta=0.7, steps=200, simultaneous=False)
    assert distance(path[-1]) < 1e-6 * distance(path[0])


def test_alpha_zero_is_plain_gradient_play_bit_for_bit_and_keeps_no_state():
    lead = play(LEAD(coupling=0.0), eta=0.1, beta=0.5, steps=20, simultaneous=False)
    plain = play(GradientPlay(), eta=0.1, beta=0.5, steps=20, simultaneous=False)
    assert all((a[k] == b[k]).all() for a, b in zip(lead, plain, strict=True) for k in a)
    assert LEAD(coupling=0.0).init(start()) == {}


@pytest.mark.parametrize("simultaneous", [True, False])
@pytest.mark.parametrize("form", ["opponent", "own", "difference"])
def test_each_player_may_have_a_coupling_of_its_own(simultaneous, form):
    rule = LEAD({"x": 0.3, "y": 1.2}, **({"cross": form} if form == "difference" else {"form": form}))
    path = play(rule, eta=0.1, beta=0.0, steps=4, simultaneous=simultaneous)
    x, y = path[0]["x"], path[0]["y"]
    x_before, y_before = x, y
    for k in range(1, 5):
        x_new = x - 0.1 * A @ (y + 0.3 * (y - y_before))
        x_seen, x_earlier = (x, x_before) if simultaneous else (x_new, x)
        y_new = y + 0.1 * A.T @ (x_seen + 1.2 * (x_seen - x_earlier))
        x_before, y_before, x, y = x, y, x_new, y_new
        np.testing.assert_allclose(path[k]["x"], x, rtol=1e-13)
        np.testing.assert_allclose(path[k]["y"], y, rtol=1e-13)


@pytest.mark.parametrize(
    ("cross", "alpha", "counted"),
    [
        ("exact", 1.0, (2, 2)),
        ("exact", {"y": 0.0, "x": 2.0}, (2, 1)),
        ("difference", {"y": 0.0, "x": 2.0}, (3, 0)),
        ("difference", {"y": 0.0, "x": 0.0}, (2, 0)),
    ],
)
def test_only_players_with_a_coupling_pay_for_it(cross, alpha, counted):
    rule = LEAD(alpha, cross=cross)
    point, state = start(), rule.init(start())
    for _ in range(2):
        oracle = GameOracle(point, [Bilinear().losses])
        directions, state = rule.direction(oracle, ["x", "y"], state)
        point = {k: (v[0] - 0.1 * directions[k][0],) for k, v in point.items()}
    seen = oracle.evaluations["gradients"], oracle.evaluations["hessian_products"]
    assert seen == counted == (rule.cost.gradients, rule.cost.hessian_products)


def test_couplings_of_other_players_are_refused_at_the_start():
    with pytest.raises(ConfigurationError, match=r"coupling names others; give one number for each of \['x', 'y'\]"):
        LEAD({"generator": 1.0, "discriminator": 1.0}).init(start())


def test_displacement_is_counted_from_the_player_s_own_previous_update():
    """Three y moves, then one x move: x sees their sum; y sees x's move once and then nothing."""
    asked = []

    class Recorder(GameOracle):
        def gradient(self, player, *, at=None, cross=None, replay=None):
            asked.append((player, None if cross is None else cross.displacement[0].clone()))
            return tuple(torch.ones_like(t) for t in self.point[player])

    rule, point = LEAD(1.0), {k: v[0].clone() for k, v in start().items()}
    state = rule.init({k: (v,) for k, v in point.items()})
    for player in ["y", "y", "y", "x", "y", "y"]:
        d, state = rule.direction(Recorder({k: (v,) for k, v in point.items()}, [Bilinear().losses]), [player], state)
        point[player] = point[player] - d[player][0]
    seen = [None if d is None else d.tolist() for _, d in asked]
    assert seen == [None, None, None, [-3.0, -3.0], [-1.0, -1.0], None]


def test_the_state_is_a_copy_and_not_an_alias_of_live_weights():
    weight = torch.zeros(2)
    state = LEAD(1.0).init({"x": (weight,), "y": (weight,)})
    weight += 1
    assert state["anchor"]["x"][0].tolist() == [0.0, 0.0]
    assert LEAD(1.0).init({"x": (weight.bfloat16(),), "y": (weight,)})["anchor"]["x"][0].dtype == torch.float32


@pytest.mark.parametrize(
    "coupling", [-0.1, float("nan"), float("inf"), "1", "Auto", None, True, {"x": 1.0}, {"x": 1.0, "y": -1.0}]
)
def test_a_bad_coupling_is_refused(coupling):
    with pytest.raises(ConfigurationError, match="coupling.*finite"):
        LEAD(coupling)


@pytest.mark.parametrize(("name", "value"), [("cross", "fuzzy"), ("form", "theirs"), ("play", "together")])
def test_an_unknown_choice_is_refused(name, value):
    with pytest.raises(ConfigurationError, match=value):
        LEADStrategy(1.0, **{name: value})


@pytest.mark.parametrize("bad", [{"eta": 0.0}, {"eta": float("nan")}, {"beta": 1.0}, {"beta": -0.1}, {"alpha": -1.0}])
def test_paper_units_out_of_range_are_refused(bad):
    with pytest.raises(ConfigurationError):
        LEADStrategy.from_paper(**({"eta": 0.1, "beta": 0.5, "alpha": 0.1} | bad))


def test_physics_units_are_the_discretisation():
    strategy, settings = LEADStrategy.from_physics(charge=2.0, friction=5.0, time_step=0.1)
    assert settings.lr == pytest.approx(0.01)
    assert settings.momentum == pytest.approx(0.5)
    assert strategy.rule.coupling == pytest.approx(2 * 2.0 * 0.1 / 0.01)
    with pytest.raises(ConfigurationError, match="beta"):
        LEADStrategy.from_physics(charge=1.0, friction=20.0, time_step=0.1)

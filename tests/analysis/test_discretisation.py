"""LEAD's steps against the forces, against the optimizer, and against the continuous path."""

import math

import pytest
import torch
from pairs import pairwise

from lightning_lead import ConfigurationError, LEADStrategy
from lightning_lead.analysis import (
    ConservativeForce,
    Friction,
    LeadUnits,
    discretise,
    lead_path,
    order_of_accuracy,
)
from lightning_lead.games import AbstractGame, BilinearGame, DiracGAN, QuadraticGame
from lightning_lead.physics.discretisation import lead_forces

BILINEAR = BilinearGame.from_singular_values([0.5, 1.0], seed=0)
GAMES = {
    "bilinear": BILINEAR,
    "quadratic": QuadraticGame([[1.0, 0.3], [-0.2, 0.5]], curvature=0.4),
    "dirac": DiracGAN(objective="minimax"),
}
TIME_STEPS = (0.04, 0.02, 0.01, 0.005)


@pytest.fixture(params=GAMES)
def game(request: pytest.FixtureRequest) -> AbstractGame:
    return GAMES[request.param]


@pytest.mark.parametrize("start", ["rest", "taylor"])
def test_the_paper_s_update_is_the_step_of_vortex_magnetic_force_and_friction(game: AbstractGame, start: str) -> None:
    physics, place = {"charge": 0.6, "friction": 0.8}, game.random_point(seed=1)
    steps = {"time_step": 0.1, "steps": 50, "start": start}
    by_paper = lead_path(game, place, **physics, **steps)
    by_forces = discretise(lead_forces(game, **physics), place, **steps)
    for one, other in zip(by_paper, by_forces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)  # rounding, in velocities divided by δ


def test_units_are_those_of_the_strategy() -> None:
    physics = {"charge": 0.25, "friction": 1.0, "time_step": 0.5}
    units = LeadUnits.from_physics(**physics)
    strategy, settings = LEADStrategy.from_physics(**physics)
    assert units == (settings.lr, settings.momentum, strategy.rule.coupling * settings.lr)


def test_steps_are_the_paper_s_algorithm_written_out_for_two_numbers() -> None:
    x = x_before = 1.0
    y = y_before = -0.5
    a, (eta, beta, alpha) = 0.7, LeadUnits.from_physics(charge=0.4, friction=0.5, time_step=0.2)
    path = lead_path(BilinearGame([[a]]), [x, y], charge=0.4, friction=0.5, time_step=0.2, steps=30)
    for position in path.positions:
        torch.testing.assert_close(position, torch.tensor([x, y], dtype=torch.float64), rtol=1e-12, atol=1e-12)
        x_next = x + beta * (x - x_before) - eta * a * y - alpha * a * (y - y_before)
        y_next = y + beta * (y - y_before) + eta * a * x + alpha * a * (x - x_before)
        x_before, y_before, x, y = x, y, x_next, y_next


def test_potential_and_friction_are_the_heavy_ball() -> None:
    # torch's own SGD with momentum is the other implementation: x⁺ = x + β(x − x⁻) − η∇U.
    def potential(s: torch.Tensor) -> torch.Tensor:
        return (s**4).sum() / 4 - s.prod()

    friction, time_step = 0.5, 0.1
    path = discretise(
        [ConservativeForce(potential), Friction(coefficient=friction)],
        [1.5, -0.5],
        time_step=time_step,
        steps=100,
        start="rest",
    )
    weights = torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([weights], lr=time_step**2, momentum=1 - friction * time_step)
    for position in path.positions[1:]:
        sgd.zero_grad()
        potential(weights).backward()
        sgd.step()
        torch.testing.assert_close(position, weights.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "physics", "start"), pairwise(GAMES, [(1.0, 1.0), (0.5, 0.0), (0.0, 1.0)], ["taylor", "rest"])
)
def test_lead_is_a_first_order_discretisation(name: str, physics: tuple[float, float], start: str) -> None:
    game, (charge, friction) = GAMES[name], physics
    result = order_of_accuracy(
        game,
        game.random_point(seed=1),
        game.random_point(seed=2),
        charge=charge,
        friction=friction,
        duration=4.0,
        time_steps=TIME_STEPS,
        start=start,
    )
    # The second term of the error's expansion is 5–10 % of the first at δ = 0.04 and halves with δ.
    assert result.order == pytest.approx(1.0, abs=0.08)
    assert result.errors[-1] > 1e-6  # far above the tolerance of the reference path, so the slope is no rounding


def test_without_velocity_in_the_forces_it_is_second_order_if_the_start_is_right(game: AbstractGame) -> None:
    # The test that the starting step is handled: a wrong one costs a whole order here.
    orders = {
        start: order_of_accuracy(
            game,
            game.random_point(seed=1),
            game.random_point(seed=2),
            charge=0.0,
            friction=0.0,
            duration=4.0,
            time_steps=TIME_STEPS,
            start=start,
        ).order
        for start in ("taylor", "rest")
    }
    assert orders == pytest.approx({"taylor": 2.0, "rest": 1.0}, abs=0.08)


def test_velocities_are_backward_differences_and_times_multiples_of_the_step() -> None:
    path = lead_path(BILINEAR, BILINEAR.random_point(seed=0), charge=1.0, friction=1.0, time_step=0.1, steps=5)
    assert path.times.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    torch.testing.assert_close(path.velocities[1:], path.positions.diff(dim=0) / 0.1)
    assert path.velocities[0].tolist() == [0.0] * 4


LEAD = {"charge": 1.0, "friction": 1.0}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LeadUnits.from_physics(charge=-1.0, friction=1.0, time_step=0.1), r"charge.*got -1\.0"),
        (lambda: LeadUnits.from_physics(charge=1.0, friction=11.0, time_step=0.1), r"β = 1 − μδ.*μ = 11\.0"),
        (lambda: LeadUnits.from_physics(charge=1.0, friction=math.nan, time_step=0.1), "μ = nan"),
        (lambda: LeadUnits.from_physics(charge=1.0, friction=1.0, time_step=0.0), r"time_step.*got 0\.0"),
        (lambda: discretise([], [0.0], time_step=-1.0, steps=1), r"time_step.*got -1\.0"),
        (lambda: discretise([], [0.0], time_step=1.0, steps=0), "steps=0"),
        (lambda: discretise([], [0.0], time_step=1.0, steps=1, start="euler"), "'taylor' or 'rest'.*'euler'"),
        (lambda: lead_path(BILINEAR, [0.0], **LEAD, time_step=0.1, steps=1), r"\(4,\).*got \(1,\)"),
        (lambda: order_of_accuracy(BILINEAR, [1.0] * 4, **LEAD, duration=1.0, time_steps=[0.1]), "at least two"),
        (lambda: order_of_accuracy(BILINEAR, [1.0] * 4, **LEAD, duration=1.0, time_steps=[0.1, 0.3]), "divide.*0.3"),
    ],
)
def test_bad_input_is_refused_with_a_reason(build, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build()

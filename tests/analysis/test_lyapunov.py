"""The Lyapunov function: its formula, that it falls, and that it exists exactly where the system is stable."""

import math

import pytest
import torch

from lightning_lead import ConfigurationError
from lightning_lead.analysis import (
    LeadLyapunov,
    VortexForce,
    integrate,
    lead_path,
    lead_system,
    lyapunov_matrix,
)
from lightning_lead.games import AbstractGame, BilinearGame, DiracGAN, QuadraticGame
from lightning_lead.physics.discretisation import lead_forces

BILINEAR = BilinearGame.from_singular_values([0.5, 1.0], seed=0)
QUADRATIC = QuadraticGame([[1.0, 0.3], [-0.2, 0.5]], curvature=0.4)
RECTANGULAR = QuadraticGame([[1.0, -2.0, 0.5]], curvature=0.3)
SYSTEMS = [  # game, charge, friction: all stable
    pytest.param(BILINEAR, 1.0, 1.0, id="bilinear"),
    pytest.param(BILINEAR, 0.26, 2.0, id="bilinear, little above 2qμ = 1"),
    pytest.param(QUADRATIC, 0.6, 0.8, id="quadratic"),
    pytest.param(QUADRATIC, 0.0, 2.0, id="quadratic, curvature and friction alone"),
    pytest.param(RECTANGULAR, 0.8, 1.0, id="quadratic, rectangular"),
]


def abscissa(game: AbstractGame, charge: float, friction: float) -> float:
    return torch.linalg.eigvals(lead_system(game, charge=charge, friction=friction)).real.max().item()


@pytest.mark.parametrize(("game", "charge", "friction"), SYSTEMS)
def test_value_and_slope_are_the_formulas_in_the_head_of_the_module(game, charge: float, friction: float) -> None:
    energy = LeadLyapunov(game, charge=charge, friction=friction)
    s, v = torch.randn(2, 5, sum(game.dimensions), dtype=torch.float64)
    jacobian = game.jacobian(game.equilibrium())
    turned = s @ ((jacobian - jacobian.T) / 2).T  # Ks
    h = getattr(game, "curvature", 0.0)
    square, inner = (lambda a: (a * a).sum(-1)), (lambda a, b: (a * b).sum(-1))
    value = square(v + friction * s + 2 * charge * turned) / 2 + square(v) / 2 + h * square(s)
    slope = -friction * square(v) - 2 * inner(v, turned) - 2 * charge * square(turned) - friction * h * square(s)
    torch.testing.assert_close(energy(s, v), value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(energy.slope(s, v), slope, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("game", "charge", "friction"), SYSTEMS)
def test_it_falls_along_the_continuous_path_at_its_rate(game, charge: float, friction: float) -> None:
    energy = LeadLyapunov(game, charge=charge, friction=friction)
    path = integrate(
        lead_forces(game, charge=charge, friction=friction),
        game.random_point(seed=1),
        game.random_point(seed=2),
        duration=8.0,
        samples=801,
    )
    values = energy(path.positions, path.velocities)
    assert (values.diff() < 0).all()
    assert (energy.slope(path.positions, path.velocities) < 0).all()
    assert 0 < energy.rate <= -2 * abscissa(game, charge, friction) + 1e-9  # no faster than the slowest mode
    assert (values <= values[0] * torch.exp(-energy.rate * path.times) * (1 + 1e-9)).all()
    # dE/dt once more, as the difference of E; a central difference at 0.01 is good to 1e-3 of the largest slope.
    slope = energy.slope(path.positions, path.velocities)[1:-1]
    torch.testing.assert_close((values[2:] - values[:-2]) / 0.02, slope, rtol=0, atol=1e-3 * slope.abs().max().item())


def test_it_falls_along_lead_s_own_steps_which_converge_where_the_vortex_alone_diverges() -> None:
    start, settings = BILINEAR.random_point(seed=3), {"charge": 1.0, "friction": 1.0}
    energy = LeadLyapunov(BILINEAR, **settings)
    lead = lead_path(BILINEAR, start, **settings, time_step=0.05, steps=800)
    values = energy(lead.positions, lead.velocities)
    assert (values.diff() < 0).all()
    assert lead.positions[-1].norm() < 1e-3 * lead.positions[0].norm()
    vortex = integrate([VortexForce(BILINEAR)], start, duration=40.0)
    assert vortex.positions[-1].norm() > 1e9 * vortex.positions[0].norm()
    rising = energy(vortex.positions, vortex.velocities)
    assert (rising.diff() > 0).any()  # the negative control: on another system the same function rises


def test_with_a_large_time_step_lead_does_not_follow_it() -> None:
    # Only an example: δ = 0.9 at q = μ = 1 is α = 1.8, far beyond where the steps resemble the path.
    path = lead_path(BILINEAR, BILINEAR.random_point(seed=3), charge=1.0, friction=1.0, time_step=0.9, steps=200)
    assert path.positions[-1].norm() > 1e3 * path.positions[0].norm()


@pytest.mark.parametrize("charge", [0.0, 0.3, 0.49, 0.51, 1.0])
@pytest.mark.parametrize("friction", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("curvature", [0.0, 0.1, 0.9])
def test_condition_is_that_of_stability_and_the_function_exists_exactly_there(
    charge: float, friction: float, curvature: float
) -> None:
    sigmas = (0.4, 1.0)
    game = QuadraticGame(torch.diag(torch.tensor(sigmas, dtype=torch.float64)), curvature=curvature)
    holds = all(friction**2 * curvature + (2 * charge * friction - 1) * sigma**2 > 0 for sigma in sigmas)
    assert holds == (abscissa(game, charge, friction) < 0)
    if holds:
        energy = LeadLyapunov(game, charge=charge, friction=friction)
        assert torch.linalg.eigvalsh(energy.matrix).min() > 0
        assert energy.rate > 0
    else:
        with pytest.raises(ConfigurationError, match="not stable; choose charge and friction"):
            LeadLyapunov(game, charge=charge, friction=friction)


def test_on_bilinear_games_the_edge_lies_at_two_q_mu_of_one_whatever_the_coupling() -> None:
    for sigma in (0.01, 1.0, 30.0):
        game = BilinearGame([[sigma]])
        for friction in (0.5, 2.0):
            below, above = (abscissa(game, factor / (2 * friction), friction) for factor in (0.99, 1.01))
            assert below > 0 > above


@pytest.mark.parametrize(("game", "charge", "friction"), SYSTEMS)
def test_scipy_s_solution_solves_the_lyapunov_equation(game, charge: float, friction: float) -> None:
    system = lead_system(game, charge=charge, friction=friction)
    matrix = lyapunov_matrix(system)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    residual = system.T @ matrix + matrix @ system + torch.eye(len(system), dtype=torch.float64)
    assert residual.abs().max() < 1e-10 * matrix.abs().max()


def test_closed_form_solves_the_lyapunov_equation_for_its_own_right_hand_side() -> None:
    # The integral ∫ exp(Mᵀt) D exp(Mt) dt has one solution, so scipy given D = −(MᵀQ + QM) must return Q.
    from scipy.linalg import solve_continuous_lyapunov

    energy = LeadLyapunov(QUADRATIC, charge=0.6, friction=0.8)
    system = lead_system(QUADRATIC, charge=0.6, friction=0.8)
    s, v = torch.eye(8, dtype=torch.float64).split(4, dim=1)
    diagonal = -energy.slope(s, v)
    pairs = -energy.slope(s[:, None] + s, v[:, None] + v)  # a form from its values: D_ij = (D(i+j) − D(i) − D(j))/2
    loss = (pairs - diagonal[:, None] - diagonal) / 2
    solution = torch.from_numpy(solve_continuous_lyapunov(system.T.numpy(), -loss.numpy()))
    torch.testing.assert_close(solution, energy.matrix, rtol=1e-9, atol=1e-9)


def test_system_of_a_dirac_gan_has_a_lyapunov_function_near_its_equilibrium() -> None:
    game, settings = DiracGAN(objective="minimax"), {"charge": 1.0, "friction": 1.0}
    matrix = lyapunov_matrix(lead_system(game, **settings))
    path = integrate(lead_forces(game, **settings), [0.1, 0.0], duration=30.0)
    state = torch.cat([path.positions, path.velocities], dim=1)
    values = ((state @ matrix) * state).sum(1)
    assert (values.diff() < 0).all()
    assert path.positions[-1].norm() < 0.05 * path.positions[0].norm()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LeadLyapunov(BILINEAR, charge=1.0, friction=0.0), r"μ > 0.*got 0\.0"),
        (lambda: LeadLyapunov(BILINEAR, charge=math.nan, friction=1.0), "must be finite.*nan"),
        (lambda: LeadLyapunov(BILINEAR, charge=0.5, friction=1.0), "not stable"),
        (lambda: LeadLyapunov(DiracGAN(), charge=1.0, friction=1.0), "changes from point to point"),
        (lambda: lead_system(BILINEAR, charge=1.0, friction=math.inf), "must be finite.*inf"),
        (lambda: lyapunov_matrix(torch.zeros(2, 3)), r"square matrix.*\(2, 3\)"),
        (lambda: lyapunov_matrix(lead_system(BILINEAR, charge=0.0, friction=1.0)), r"not stable.*0\.3"),
    ],
)
def test_bad_input_is_refused_with_a_reason(build, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build()

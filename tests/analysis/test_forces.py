"""The forces against autograd, and what each does to the energy along the path of a particle."""

import math

import pytest
import torch

from lightning_lead import ConfigurationError
from lightning_lead.analysis import (
    AbstractForce,
    ConservativeForce,
    Friction,
    MagneticForce,
    Trajectory,
    VortexForce,
    integrate,
    kinetic_energy,
    work,
)
from lightning_lead.games import AbstractGame, BilinearGame, DiracGAN, QuadraticGame

BILINEAR = BilinearGame.from_singular_values([0.5, 1.0], seed=0)
GAMES = {
    "bilinear": BILINEAR,
    "quadratic": QuadraticGame([[1.0, -2.0, 0.5]], curvature=0.3),
    "dirac, zero-sum": DiracGAN(objective="minimax"),
    "dirac, not zero-sum": DiracGAN(objective="non_saturating"),
}
ZERO_SUM = [name for name in GAMES if name != "dirac, not zero-sum"]


def joint(game: AbstractGame, *, seed: int) -> torch.Tensor:
    point = game.random_point(seed=seed)
    return torch.cat([point["x"][0], point["y"][0]])


def second_derivatives(game: AbstractGame, position: torch.Tensor) -> torch.Tensor:
    """∇²f of the first player's loss, by autograd from the loss alone."""
    return torch.autograd.functional.hessian(
        lambda s: game.losses(game.point(*s.split(list(game.dimensions))))["x"], position
    )


@pytest.fixture(params=GAMES)
def game(request: pytest.FixtureRequest) -> AbstractGame:
    return GAMES[request.param]


def test_vortex_force_pushes_each_player_down_its_own_loss(game: AbstractGame) -> None:
    position = joint(game, seed=1).requires_grad_()
    losses = game.losses(game.point(*position.split(list(game.dimensions))))
    n = game.dimensions[0]
    down = [-torch.autograd.grad(losses[player], position, retain_graph=True)[0] for player in ("x", "y")]
    force = VortexForce(game)(position, torch.zeros_like(position))
    torch.testing.assert_close(force, torch.cat([down[0][:n], down[1][n:]]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ZERO_SUM)
def test_magnetic_force_is_the_paper_s_in_a_zero_sum_game(name: str) -> None:
    game, charge = GAMES[name], 0.7
    position, velocity = joint(game, seed=1), joint(game, seed=2)
    n = game.dimensions[0]
    hessian = second_derivatives(game, position)
    expected = torch.cat(
        [-2 * charge * hessian[:n, n:] @ velocity[n:], 2 * charge * hessian[n:, :n] @ velocity[:n]],
    )
    assert expected.norm() > 0.1
    force = MagneticForce(game, charge=charge)(position, velocity)
    torch.testing.assert_close(force, expected, rtol=1e-12, atol=1e-12)


def test_magnetic_force_is_perpendicular_to_the_velocity_in_every_game(game: AbstractGame) -> None:
    position, velocity = joint(game, seed=3), joint(game, seed=4)
    force = MagneticForce(game, charge=2.0)(position, velocity)
    assert force.norm() > 0.1
    assert abs((force @ velocity).item()) < 1e-14 * (force.norm() * velocity.norm()).item() * 10  # rounding


def test_lead_s_two_forms_both_do_work_where_the_game_is_not_zero_sum_and_their_mean_does_none() -> None:
    game, charge = GAMES["dirac, not zero-sum"], 0.5
    position, velocity = torch.tensor([1.0, 0.5]).double(), torch.tensor([0.3, -1.0]).double()
    jacobian = game.jacobian(game.point(*position.split([1, 1])))
    cross = jacobian - jacobian.diagonal().diag()
    own, opponent = -2 * charge * cross @ velocity, 2 * charge * cross.T @ velocity
    mean = MagneticForce(game, charge=charge)(position, velocity)
    torch.testing.assert_close((own + opponent) / 2, mean, rtol=1e-12, atol=1e-14)
    assert abs(own @ velocity) > 0.01
    assert abs(opponent @ velocity) > 0.01


@pytest.mark.parametrize("friction", [0.0, 0.4])
def test_magnetic_force_does_no_work_along_the_path(game: AbstractGame, friction: float) -> None:
    magnetic = MagneticForce(game, charge=1.5)
    forces = [VortexForce(game), magnetic, Friction(coefficient=friction)]
    path = integrate(forces, game.random_point(seed=5), joint(game, seed=6), duration=4.0, samples=201)
    straight = integrate(
        [forces[0], forces[2]], game.random_point(seed=5), joint(game, seed=6), duration=4.0, samples=201
    )
    assert (path.positions[-1] - straight.positions[-1]).norm() > 0.1  # it does bend the path
    # The power vanishes to rounding at every sample, so what is left is rounding times energy times duration.
    assert work(magnetic, path).abs().max() < 1e-9


def test_free_particle_in_a_magnetic_field_keeps_its_speed_and_goes_in_circles() -> None:
    game, charge, sigma = BilinearGame([[2.0]]), 0.5, 2.0
    period = 2 * math.pi / (2 * charge * sigma)
    path = integrate([MagneticForce(game, charge=charge)], [1.0, 0.0], [0.0, 3.0], duration=period)
    # The solver keeps 1e-11 a step over some thirty steps.
    torch.testing.assert_close(path.velocities.norm(dim=1), torch.full((501,), 3.0).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(path.positions[-1], path.positions[0], rtol=0, atol=1e-9)


def test_friction_takes_out_of_a_conservative_system_what_it_says() -> None:
    well = ConservativeForce(lambda s: (s**4).sum() / 4 - (s**2).sum() / 2 + s.prod() / 5)
    mu = 0.3
    friction = Friction(coefficient=mu)
    path = integrate([well, friction], [2.0, -1.0], [0.5, 1.0], duration=6.0, samples=1201)
    energy = kinetic_energy(path.velocities) + well.energy(path.positions)
    assert (energy.diff() <= 1e-10).all()  # never up, to the solver's tolerance
    assert energy[0] - energy[-1] > 1.0
    # −∫μ|ṡ|² by Simpson's rule from the velocities alone; at a distance of 0.005 both rules keep more than 1e-8.
    power = -mu * path.velocities.square().sum(1)
    simpson = (power[0:-1:2] + 4 * power[1::2] + power[2::2]).cumsum(0) * (6.0 / 1200) / 3
    torch.testing.assert_close((energy - energy[0])[2::2], simpson, rtol=0, atol=1e-8)
    torch.testing.assert_close(work(friction, path)[2::2], simpson, rtol=0, atol=1e-8)


def test_without_friction_a_potential_keeps_the_energy() -> None:
    well = ConservativeForce(lambda s: (s**4).sum() / 4 - (s**2).sum() / 2)
    path = integrate([well], [2.0, -1.0], [0.5, 1.0], duration=8.0, samples=201)
    energy = kinetic_energy(path.velocities) + well.energy(path.positions)
    assert (energy - energy[0]).abs().max() < 1e-8  # 1e-11 a step over some hundred steps
    assert kinetic_energy(path.velocities).std() > 0.5  # while the kinetic part goes up and down


def test_works_of_all_forces_add_up_to_the_kinetic_energy(game: AbstractGame) -> None:
    forces = [VortexForce(game), MagneticForce(game, charge=0.8), Friction(coefficient=0.5)]
    path = integrate(forces, game.random_point(seed=7), joint(game, seed=8), duration=2.0, samples=801)
    kinetic = kinetic_energy(path.velocities)
    total = torch.stack([work(force, path) for force in forces]).sum(0)
    torch.testing.assert_close(total, kinetic - kinetic[0], rtol=1e-8, atol=1e-8)  # splines, 0.0025 apart


def test_work_converges_with_the_fourth_power_of_the_distance_between_samples() -> None:
    # x = sin t and a constant force 1: W = sin t. The clock's own path, so no solver has a part in it.
    class Constant(AbstractForce):
        def __call__(self, position: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(position)

    errors = []
    for samples in (101, 201):
        times = torch.linspace(0, 5, samples, dtype=torch.float64)
        path = Trajectory(times, times.sin()[:, None], times.cos()[:, None])
        errors.append((work(Constant(), path) - times.sin()).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.5)


def test_vortex_alone_speeds_up() -> None:
    path = integrate([VortexForce(BILINEAR)], BILINEAR.random_point(seed=0), duration=20.0)
    kinetic, radius = kinetic_energy(path.velocities), path.positions.norm(dim=1)
    quarter = kinetic[1:].reshape(4, -1).amax(dim=1)
    assert (quarter[1:] > 20 * quarter[:-1]).all()
    # The fastest mode grows as exp(t·√(σ/2)): its energy by the factor exp(2·5·√½) = 1177 in each quarter of the path.
    assert (quarter[-1] / quarter[-2]).item() == pytest.approx(math.exp(10 * math.sqrt(0.5)), rel=0.1)
    assert radius[-1] > 1e5 * radius[0]


def test_conservative_part_of_a_game_and_its_rotation_make_the_field() -> None:
    game = GAMES["quadratic"]
    position, velocity = joint(game, seed=1), torch.zeros(4).double()
    jacobian = game.jacobian(game.equilibrium())
    turned = (jacobian - jacobian.T) / 2 @ position
    part = ConservativeForce.of_game(game)(position, velocity)
    torch.testing.assert_close(part - turned, VortexForce(game)(position, velocity))
    torch.testing.assert_close(part, -0.3 * position)


def test_forces_leave_no_graph_and_change_nothing() -> None:
    game = GAMES["quadratic"]
    position, velocity = joint(game, seed=1).requires_grad_(), joint(game, seed=2).requires_grad_()
    before = position.detach().clone(), velocity.detach().clone()
    forces = [
        VortexForce(game),
        MagneticForce(game, charge=1.0),
        Friction(coefficient=1.0),
        ConservativeForce(lambda s: (s**2).sum()),
    ]
    with torch.no_grad():
        assert not any(force(position, velocity).requires_grad for force in forces)
    assert not any(force(position, velocity).requires_grad for force in forces)
    assert torch.equal(position.detach(), before[0])
    assert torch.equal(velocity.detach(), before[1])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Friction(coefficient=-0.1), r"drives the particle.*-0\.1"),
        (lambda: Friction(coefficient=math.inf), "inf"),
        (lambda: MagneticForce(BILINEAR, charge=math.nan), "charge must be a finite number.*nan"),
        (lambda: VortexForce(BILINEAR)(torch.zeros(3), torch.zeros(3)), r"2 and 2 coordinates.*\(4,\).*\(3,\)"),
        (lambda: ConservativeForce(lambda s: s)(torch.zeros(3), torch.zeros(3)), r"more than one value.*\(3,\)"),
        (lambda: ConservativeForce.of_game(GAMES["dirac, zero-sum"]), "changes from point to point"),
        (lambda: work(Friction(coefficient=1.0), integrate([], [0.0], duration=1.0, samples=3)), "4 samples.*got 3"),
    ],
)
def test_bad_input_is_refused_with_a_reason(build, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build()

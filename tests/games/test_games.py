"""Every game against autograd, and the facts that make it worth having."""

import math

import pytest
import torch

from lightning_lead import ConfigurationError
from lightning_lead.games import AbstractGame, BilinearGame, DiracGAN, QuadraticGame

OBJECTIVES = ("minimax", "non_saturating", "wasserstein", "hinge")
GAMES = {
    "bilinear": BilinearGame([[1.0, 0.3], [-0.2, 0.5]]),
    "bilinear by spectrum": BilinearGame.from_singular_values([0.2, 0.7, 1.0], seed=3),
    "quadratic": QuadraticGame([[1.0, 0.3], [-0.2, 0.5]], curvature=0.4),
    "quadratic, rectangular": QuadraticGame([[1.0, -2.0, 0.5]], curvature=0.1),
    **{f"dirac, {objective}": DiracGAN(objective=objective) for objective in OBJECTIVES},
}
ZERO_SUM = [name for name in GAMES if name not in ("dirac, non_saturating", "dirac, hinge")]


@pytest.fixture(params=GAMES)
def game(request: pytest.FixtureRequest) -> AbstractGame:
    return GAMES[request.param]


def autograd_field(game: AbstractGame, joint: torch.Tensor) -> torch.Tensor:
    """Joint gradient from the losses alone, as a function of the joint vector."""
    n, m = game.dimensions
    x, y = joint.split([n, m])
    losses = game.losses({"x": (x,), "y": (y,)})
    return torch.cat([torch.autograd.grad(losses[p], v, create_graph=True)[0] for p, v in (("x", x), ("y", y))])


@pytest.mark.parametrize("seed", [0, 1])
def test_field_is_the_gradient_of_the_losses(game: AbstractGame, seed: int) -> None:
    point = game.random_point(seed=seed)
    joint = torch.cat([point["x"][0], point["y"][0]]).requires_grad_()
    field = game.field(point)
    expected = autograd_field(game, joint)
    torch.testing.assert_close(torch.cat([field["x"][0], field["y"][0]]), expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_jacobian_is_the_derivative_of_the_field(game: AbstractGame, seed: int) -> None:
    point = game.random_point(seed=seed)
    joint = torch.cat([point["x"][0], point["y"][0]])

    def field(joint: torch.Tensor) -> torch.Tensor:
        value = game.field(game.point(*joint.split(list(game.dimensions))))
        return torch.cat([value["x"][0], value["y"][0]])

    expected = torch.autograd.functional.jacobian(field, joint)
    torch.testing.assert_close(game.jacobian(point), expected, rtol=1e-12, atol=1e-12)


def test_equilibrium_is_a_zero_of_the_field(game: AbstractGame) -> None:
    equilibrium = game.equilibrium()
    assert game.distance(equilibrium) == 0.0
    assert all((vector == 0).all() for (vector,) in game.field(equilibrium).values())


@pytest.mark.parametrize("name", ZERO_SUM)
def test_losses_cancel_in_zero_sum_games(name: str) -> None:
    losses = GAMES[name].losses(GAMES[name].random_point(seed=5))
    assert losses["x"].item() == pytest.approx(-losses["y"].item(), rel=1e-14)
    assert losses["x"].item() != 0.0


def test_losses_do_not_cancel_in_the_non_saturating_game() -> None:
    game = DiracGAN(objective="non_saturating")
    losses = game.losses(game.point([1.0], [1.0]))
    assert losses["x"].item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert losses["y"].item() == pytest.approx(math.log(1 + math.e) + math.log(2))


def test_distance_is_euclidean_over_both_players() -> None:
    game = QuadraticGame([[1.0, 0.0]], curvature=1.0)
    assert game.distance(game.point([2.0], [3.0, 6.0])) == 7.0


def test_curvature_decides_whether_small_steps_of_gradient_play_converge() -> None:
    # Same coupling, same start, same step: the bilinear game spins outwards, the curved one comes home.
    distances = {}
    for curvature in (0.0, 0.5):
        game = QuadraticGame([[1.0]], curvature=curvature)
        point = game.point([1.0], [1.0])
        for _ in range(100):
            field = game.field(point)
            point = {player: (point[player][0] - 0.1 * field[player][0],) for player in game.players}
        distances[curvature] = game.distance(point)
    assert distances[0.0] == pytest.approx(math.sqrt(2) * 1.01**50)
    assert distances[0.5] == pytest.approx(math.sqrt(2) * (0.95**2 + 0.1**2) ** 50)


def test_spectrum_is_the_one_asked_for() -> None:
    game = BilinearGame.from_singular_values([0.2, 0.7, 1.0], seed=0)
    assert torch.linalg.svdvals(game.coupling).tolist() == pytest.approx([1.0, 0.7, 0.2])
    other = BilinearGame.from_singular_values([0.2, 0.7, 1.0], seed=1)
    assert not torch.allclose(game.coupling, other.coupling)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_adversarialness_turns_the_spectrum_from_the_real_to_the_imaginary_axis(level: float) -> None:
    game = QuadraticGame.of_adversarialness(level, [0.5, 2.0], seed=3)
    eigenvalues = torch.linalg.eigvals(game.jacobian(game.equilibrium()))
    assert eigenvalues.real.tolist() == pytest.approx([1 - level] * 4)
    assert sorted(eigenvalues.imag.tolist()) == pytest.approx([-2 * level, -0.5 * level, 0.5 * level, 2 * level])


def test_random_point_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    game = GAMES["quadratic"]
    before = torch.get_rng_state()
    first, again, other = (game.random_point(seed=seed)["x"][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_dtype_is_float64_unless_chosen() -> None:
    for dtype in (torch.float64, torch.float32):
        chosen = {} if dtype is torch.float64 else {"dtype": dtype}
        for game in (BilinearGame([[1.0]], **chosen), QuadraticGame([[1]], curvature=1, **chosen), DiracGAN(**chosen)):
            point = game.random_point(seed=0)
            tensors = [*game.losses(point).values(), *game.field(point)["x"], game.jacobian(point)]
            assert {tensor.dtype for tensor in tensors} == {dtype}


def test_game_keeps_its_own_copy_of_the_coupling() -> None:
    coupling = torch.eye(2, dtype=torch.float64)
    game = BilinearGame(coupling)
    coupling.zero_()
    assert torch.equal(game.coupling, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BilinearGame([[1.0, 0.0]]), r"full rank.*shape \(1, 2\) and rank 1"),
        (lambda: BilinearGame([[1.0, 1.0], [1.0, 1.0]]), "rank 1"),
        (lambda: BilinearGame([[float("nan")]]), "finite matrix"),
        (lambda: BilinearGame(torch.ones(3)), r"shape \(3,\)"),
        (lambda: BilinearGame([[1.0]], dtype=torch.int64), r"floating-point.*torch\.int64"),
        (lambda: BilinearGame.from_singular_values([1.0, 0.0], seed=0), "singular value"),
        (lambda: BilinearGame.from_singular_values([], seed=0), "singular value"),
        (lambda: QuadraticGame([[1.0]], curvature=-0.1), r"curvature.*got -0\.1"),
        (lambda: QuadraticGame([[1.0]], curvature=float("inf")), "curvature.*got inf"),
        (lambda: QuadraticGame([[0.0]], curvature=0.0), "rank 0"),
        (lambda: QuadraticGame.of_adversarialness(1.1, [1.0], seed=0), r"\[0, 1\] \(got 1\.1\)"),
        (lambda: QuadraticGame.of_adversarialness(0.5, [0.0], seed=0), "singular value"),
        (lambda: QuadraticGame(torch.zeros(0, 2), curvature=1.0), "at least one entry"),
        (lambda: DiracGAN(objective="least_squares"), "wasserstein.*least_squares"),
        (lambda: GAMES["quadratic"].point([1.0], [1.0, 2.0]), r"'x'.*shape \(2,\).*\(1,\)"),
        (lambda: GAMES["quadratic"].losses({"x": (torch.zeros(2),)}), "'y'"),
    ],
)
def test_bad_input_is_refused_with_a_reason(build, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build()

"""Continuous paths against solutions in closed form, and what happens without SciPy."""

import math
import subprocess
import sys

import pytest
import torch

from lightning_lead import ConfigurationError
from lightning_lead.analysis import ConservativeForce, Friction, VortexForce, integrate, lead_system
from lightning_lead.games import BilinearGame, QuadraticGame
from lightning_lead.physics.discretisation import lead_forces

GAME = QuadraticGame([[1.0, 0.3], [-0.2, 0.5]], curvature=0.4)


def test_damped_spring_follows_its_closed_form() -> None:
    mu, omega = 0.4, math.sqrt(1 - 0.2**2)
    path = integrate(
        [ConservativeForce(lambda s: (s**2).sum() / 2), Friction(coefficient=mu)], [1.0], duration=10.0, samples=101
    )
    t = path.times
    expected = torch.exp(-mu / 2 * t) * ((omega * t).cos() + mu / (2 * omega) * (omega * t).sin())
    torch.testing.assert_close(path.positions[:, 0], expected, rtol=0, atol=1e-9)  # 1e-11 a step, some forty steps


def test_path_of_a_linear_game_is_the_exponential_of_its_system() -> None:
    position, velocity = GAME.random_point(seed=1), GAME.random_point(seed=2)
    path = integrate(lead_forces(GAME, charge=0.6, friction=0.8), position, velocity, duration=6.0, samples=3)
    system = lead_system(GAME, charge=0.6, friction=0.8)
    start = torch.cat([vector for point in (position, velocity) for player in "xy" for vector in point[player]])
    for time, s, v in zip(*path, strict=True):
        exact = torch.linalg.matrix_exp(time * system) @ start
        torch.testing.assert_close(torch.cat([s, v]), exact, rtol=0, atol=1e-9)  # the solver keeps 1e-11 a step


def test_samples_do_not_decide_the_accuracy() -> None:
    few, many = (integrate([VortexForce(GAME)], GAME.random_point(seed=0), duration=4.0, samples=n) for n in (2, 1001))
    assert torch.equal(few.positions[-1], many.positions[-1])
    assert many.times[0] == 0
    assert many.times[-1] == 4
    assert {tensor.dtype for tensor in many} == {torch.float64}


def test_rest_is_the_velocity_that_is_meant_without_one_and_inputs_stay_as_they_are() -> None:
    position = torch.tensor([1.0, 2.0, 3.0, 4.0])
    path = integrate([VortexForce(GAME)], position, duration=1.0, samples=4)
    same = integrate(
        [VortexForce(GAME)], GAME.point(position[:2], position[2:]), torch.zeros(4), duration=1.0, samples=4
    )
    assert all(torch.equal(a, b) for a, b in zip(path, same, strict=True))
    assert path.velocities[0].tolist() == [0.0] * 4
    assert position.tolist() == [1.0, 2.0, 3.0, 4.0]


class Mute:
    """A force of the wrong shape."""

    def __call__(self, position: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        return position.sum()


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (([], [0.0]), {"duration": 0.0}, "duration.*got 0.0"),
        (([], [0.0]), {"duration": math.inf}, "duration.*got inf"),
        (([], [0.0]), {"duration": 1.0, "samples": 1}, "samples ≥ 2.*got 1"),
        (([], [0.0]), {"duration": 1.0, "tolerance": 0.0}, "tolerance.*got 0.0"),
        (([], []), {"duration": 1.0}, r"this position.*shape \(0,\)"),
        (([], [[0.0]]), {"duration": 1.0}, r"this position.*shape \(1, 1\)"),
        (([], [math.nan]), {"duration": 1.0}, "non-finite"),
        (([], [0.0], [math.inf]), {"duration": 1.0}, "this velocity.*non-finite"),
        (([], [0.0], [0.0, 1.0]), {"duration": 1.0}, "different lengths.*got 1 and 2"),
        (([Mute()], [0.0]), {"duration": 1.0}, r"Mute.*\(1,\).*got \(\)"),
        (([VortexForce(GAME)], [0.0]), {"duration": 1.0}, r"QuadraticGame.*\(4,\).*got \(1,\)"),
        # x¨ = x³ from x = 2 at rest is infinite before t = 1
        (([ConservativeForce(lambda s: -(s**4).sum() / 4)], [2.0]), {"duration": 5.0}, "leaves every bound.*of 5"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_bad_input_is_refused_with_a_reason(arguments, settings, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        integrate(*arguments, **settings)


def test_analysis_loads_without_scipy_and_says_how_to_get_it() -> None:
    script = (
        "import sys\n"
        "sys.modules['scipy'] = None\n"  # makes `import scipy` fail
        "from lightning_lead import ConfigurationError, analysis\n"
        "from lightning_lead.games import BilinearGame\n"
        "path = analysis.lead_path(BilinearGame([[1.0]]), [1.0, 0.0], charge=1, friction=1, time_step=0.1, steps=3)\n"
        "calls = [\n"
        "    lambda: analysis.integrate([], [0.0], duration=1.0),\n"
        "    lambda: analysis.work(analysis.Friction(coefficient=1.0), path),\n"
        "    lambda: analysis.lyapunov_matrix(-path.times.new_ones(1, 1)),\n"
        "]\n"
        "for call in calls:\n"
        "    try:\n"
        "        call()\n"
        "    except ConfigurationError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all("SciPy is not installed; run `pip install 'lightning-lead[analysis]'`" in line for line in lines)


def test_a_spinning_particle_needs_no_game_of_float64() -> None:
    game = BilinearGame([[1.0]], dtype=torch.float32)
    path = integrate([VortexForce(game)], game.point([1.0], [0.0]), duration=1.0, samples=2, tolerance=1e-6)
    exact = torch.linalg.matrix_exp(lead_system(game, charge=0.0, friction=0.0)) @ torch.tensor([1.0, 0, 0, 0]).double()
    torch.testing.assert_close(path.positions[-1], exact[:2], rtol=0, atol=1e-5)  # forces rounded to float32

"""The extrapolated form of LEAD beside the exact own form: equal on quadratic games, another algorithm elsewhere."""

from __future__ import annotations

import pytest
import torch

from lightning_lead import ConfigurationError, LEADStrategy
from lightning_lead.analysis import simulate
from lightning_lead.calculus import GameOracle
from lightning_lead.calculus._players import extrapolated
from lightning_lead.games import AbstractGame, DiracGAN, QuadraticGame
from lightning_lead.rules import LEAD


class RandomQuadraticGame(AbstractGame):
    """½xᵀPx + xᵀAy + ½yᵀRy + bᵀx + cᵀy for each player, with matrices of its own or, zero-sum, of opposite sign."""

    def __init__(self, *, seed: int, zero_sum: bool) -> None:
        super().__init__(dimensions=(3, 4), dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=self.dtype)

        of_x = [normal(3, 3), normal(3, 4), normal(4, 4), normal(3), normal(4)]
        of_y = [-m for m in of_x] if zero_sum else [normal(*m.shape) for m in of_x]
        self.matrices = {"x": of_x, "y": of_y}

    def losses(self, point):
        x, y = point["x"][0], point["y"][0]
        return {
            name: x @ P @ x / 2 + x @ A @ y + y @ R @ y / 2 + b @ x + c @ y
            for name, (P, A, R, b, c) in self.matrices.items()
        }

    def field(self, point):
        raise NotImplementedError

    def jacobian(self, point):
        raise NotImplementedError


def momentum(beta):
    return lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=beta)


def path(coupling, game, *, play="alternating", beta=0.0, lr=0.1, steps=4, **form):
    return simulate(LEAD(coupling, **form), game, lr=lr, steps=steps, play=play, optimizer=momentum(beta)).points


COUPLINGS = [1.0, "auto", {"x": 0.3, "y": 2.0}, {"x": 1.5, "y": 0.0}]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_on_quadratic_games_it_is_the_exact_own_form_at_every_point_of_the_path(play, beta):
    """24 games, of one opponent's curvature as well, which the own gradient does not see."""
    for seed in range(24):
        game, coupling = RandomQuadraticGame(seed=seed, zero_sum=seed % 2 == 0), COUPLINGS[seed % 4]
        exact = path(coupling, game, play=play, beta=beta, form="own")
        ahead = path(coupling, game, play=play, beta=beta, cross="extrapolated")
        size = exact.abs().max()
        assert (exact - exact[0]).abs().max() > 1e-2
        assert (exact - ahead).abs().max() < 1e-12 * size.clamp_min(1), (seed, float(size))


def test_in_zero_sum_games_it_is_the_paper_s_form_too_and_in_others_it_is_not():
    for zero_sum in (True, False):
        game = RandomQuadraticGame(seed=1, zero_sum=zero_sum)
        off = (path(1.0, game) - path(1.0, game, cross="extrapolated")).abs().max()
        assert (off < 1e-12) == zero_sum


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_on_a_game_that_is_not_quadratic_it_is_another_algorithm(play):
    """The negative control; the smaller the steps, the closer, because the remainder is of second order in Δ."""
    off = {
        lr: (
            path(1.0, DiracGAN(), play=play, lr=lr, form="own")
            - path(1.0, DiracGAN(), play=play, lr=lr, cross="extrapolated")
        )
        for lr in (0.4, 0.04)
    }
    size = {lr: float(difference.abs().max()) for lr, difference in off.items()}
    assert size[0.4] > 1e-3
    assert size[0.04] < 1e-2 * size[0.4]


def test_one_gradient_is_asked_for_at_the_displaced_opponent_as_the_turn_s_first_look():
    game, looks = QuadraticGame([[1.0]], curvature=0.5), []

    def losses(point, wanted, *, replay):
        looks.append((point["x"][0].item(), point["y"][0].item(), sorted(wanted), replay))
        return game.losses(point)

    rule, point = LEAD({"x": 2.0, "y": 0.5}, cross="extrapolated"), game.point([1.0], [1.0])
    state = rule.init(point)
    for player, now in (("x", {}), ("y", {"x": [3.0]}), ("x", {"y": [1.5]}), ("x", {"x": [4.0]})):
        point = point | game.point(now.get("x", point["x"][0]), now.get("y", point["y"][0]))
        oracle = GameOracle(point, [losses])
        _, state = rule.direction(oracle, [player], state)
        assert oracle.evaluations.total() == oracle.evaluations["gradients"] == 1
        assert oracle.statistics[player].cross_norm is None
    # nobody has moved; x has moved by 2 and y looks half as far ahead; y by ½, and x looks twice as far; seen already
    assert looks == [
        (1.0, 1.0, ["x"], False),
        (4.0, 1.0, ["y"], False),
        (3.0, 2.5, ["x"], False),
        (4.0, 1.5, ["x"], False),
    ]
    assert torch.equal(point["y"][0], torch.tensor([1.5]).double())  # the displacement has left no trace


def test_the_point_ahead_is_rounded_once_and_keeps_the_parameters_dtype():
    generator = torch.Generator().manual_seed(0)
    for dtype, wide in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        now = torch.randn(1000, generator=generator).to(dtype)
        before = (now.to(wide) + 1e-3 * torch.randn(1000, generator=generator).to(wide)).contiguous()
        for weight in (0.0, 0.5, 1.0, 9.5, -1.0):
            (ahead,) = extrapolated((now,), (before,), weight)
            expected = (now.double() + weight * (now.double() - before.double())).to(dtype)
            assert ahead.dtype == dtype
            assert (ahead.double() - expected.double()).abs().max() <= 8 * torch.finfo(
                dtype
            ).eps * now.double().abs().max()
            assert weight != 0 or torch.equal(ahead, now)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "own"}, "form='own'.*cross='extrapolated'.*leave form out"),
        ({"cross_fraction": 0.5}, "cross_fraction with cross='extrapolated'.*of the whole batch; leave it out"),
    ],
)
def test_settings_of_a_cross_term_are_refused_where_there_is_none(settings, message):
    for build in (LEAD, LEADStrategy):
        with pytest.raises(ConfigurationError, match=message):
            build(1.0, cross="extrapolated", **settings)


def test_other_units_take_the_form_as_well():
    paper, settings = LEADStrategy.from_paper(eta=0.1, beta=0.4, alpha=0.07, cross="extrapolated", play="simultaneous")
    assert (paper.rule.cross, paper.play, settings) == ("extrapolated", "simultaneous", (0.1, 0.4))
    assert paper.rule.coupling == pytest.approx(0.7)
    physics, settings = LEADStrategy.from_physics(charge=0.25, friction=1.0, time_step=0.5, cross="extrapolated")
    assert (physics.rule.cross, physics.rule.coupling, settings) == ("extrapolated", 1.0, (0.25, 0.5))
    game = RandomQuadraticGame(seed=2, zero_sum=True)
    by_paper = simulate(paper.rule, game, lr=0.1, steps=4, play="simultaneous", optimizer=momentum(0.4)).points
    exact = path(0.7, game, beta=0.4, play="simultaneous", form="own")
    assert (by_paper - exact).abs().max() < 1e-12 * exact.abs().max().clamp_min(1)


def test_without_coupling_it_is_plain_gradient_play_and_keeps_no_state():
    game = RandomQuadraticGame(seed=3, zero_sum=False)
    rule = LEAD(0.0, cross="extrapolated")
    assert (rule.needs.uses_opponent, rule.needs.displaces) == (False, False)
    assert rule.init(game.point(torch.ones(3), torch.ones(4))) == {}
    assert torch.equal(path(0.0, game, cross="extrapolated"), path(0.0, game))
    # a run that goes on without coupling leaves no anchors that grow old
    state = LEAD(1.0).init(game.point(torch.ones(3), torch.ones(4)))
    oracle = GameOracle(game.point(torch.ones(3), torch.ones(4)), [lambda place, wanted, *, replay: game.losses(place)])
    assert rule.direction(oracle, ["x"], state)[1] == {}
    state = LEAD(1.0, cross="extrapolated").direction(oracle, ["x"], {})[1]
    assert state["moved"] == {"x": True, "y": False}

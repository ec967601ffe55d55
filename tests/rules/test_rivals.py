"""Rivals against the equations of their papers and against public code, in float64, beyond what the contract asks."""

from __future__ import annotations

import copy
import dataclasses
import sys
import warnings
from pathlib import Path

import pytest
import torch

from lightning_lead import ConfigurationError
from lightning_lead.analysis import Match, simulate, spectral_radius
from lightning_lead.calculus import GameOracle
from lightning_lead.calculus.lookahead import Lookahead
from lightning_lead.games import BilinearGame, QuadraticGame
from lightning_lead.rules import (
    ACGD,
    CGD,
    LEAD,
    ODEGAN,
    AbstractGameRule,
    AlexGDA,
    ExtraAdam,
    GradientPlay,
    LevelK,
    LookaheadMinmax,
    NegativeAdam,
    NuPI,
    OptimisticAdam,
    OptimisticGradient,
    PastExtragradient,
    PolyakMomentum,
    Prediction,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # invalid escapes in its docstrings, said by whoever compiles it first
    import CGDs

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from dense_game import Dense, TwistedGame

START = ([0.5, -1.0], [1.0, 0.3, -0.6])


def adam(betas=(0.5, 0.9)):
    return lambda groups: torch.optim.Adam(groups, betas=betas)


def gradients(game, x, y):
    dense = Dense(game, x, y)
    return torch.cat([dense.gradient("x"), dense.gradient("y")])


class HandWrittenAdam:
    """The moments of Kingma and Ba's Algorithm 1, and the step that they make."""

    def __init__(self, size, lr, beta1, beta2, eps=1e-8):
        self.m, self.v, self.t = torch.zeros(size).double(), torch.zeros(size).double(), 0
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps

    def step(self, g):
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        m, v = self.m / (1 - self.beta1**self.t), self.v / (1 - self.beta2**self.t)
        return -self.lr * m / (v.sqrt() + self.eps)


def test_extra_adam_is_algorithm_4_of_gidel_et_al():
    """Both gradients enter the moments, and the bias correction counts both."""
    game = TwistedGame()
    path = simulate(ExtraAdam(), game, lr=0.05, steps=10, optimizer=adam(), start=game.point(*START))
    z, hand = path.points[0].clone(), HandWrittenAdam(5, 0.05, 0.5, 0.9)
    for t in range(1, 11):
        ahead = z + hand.step(gradients(game, z[:2], z[2:]))
        z = z + hand.step(gradients(game, ahead[:2], ahead[2:]))
        assert (path.points[t] - z).abs().max() < 1e-13


def test_optimistic_adam_is_algorithm_1_of_daskalakis_et_al():
    game = TwistedGame()
    rule, start = OptimisticAdam(), game.point(*START)
    path = simulate(rule, game, lr=0.05, steps=10, play="simultaneous", optimizer=adam(), start=start)
    z, hand, last = path.points[0].clone(), HandWrittenAdam(5, 0.05, 0.5, 0.9), None
    for t in range(1, 11):
        step = hand.step(gradients(game, z[:2], z[2:]))
        z, last = z + 2 * step - (step if last is None else last), step
        assert (path.points[t] - z).abs().max() < 1e-13


def test_past_extragradient_with_adam_is_algorithm_4_of_gidel_et_al_with_extrapolation_from_the_past():
    """Every gradient enters the moments twice, and the bias correction counts both; the first step has no past."""
    game = TwistedGame()
    path = simulate(PastExtragradient(), game, lr=0.05, steps=10, optimizer=adam(), start=game.point(*START))
    z, hand, last = path.points[0].clone(), HandWrittenAdam(5, 0.05, 0.5, 0.9), None
    for t in range(1, 11):
        ahead = z if last is None else z + hand.step(last)
        last = gradients(game, ahead[:2], ahead[2:])
        z = z + hand.step(last)
        assert (path.points[t] - z).abs().max() < 1e-13


def test_the_points_that_past_extragradient_looks_at_are_those_of_the_optimistic_gradient():
    """With SGD, θ̃ = θ − η v⁻; on another game than a quadratic one, so that it is no coincidence of spectra."""
    game = TwistedGame()
    past = simulate(PastExtragradient(), game, lr=0.05, steps=10, start=game.point(*START)).points
    looked_at = torch.cat([past[:1], past[1:-1] + past.diff(dim=0)[:-1]])  # a difference is −η v
    begun = simulate(Begun(), game, lr=0.05, steps=9, start=game.point(*START)).points
    assert (looked_at - begun).abs().max() < 1e-13
    taken_before_too = simulate(OptimisticGradient(), game, lr=0.05, steps=9, start=game.point(*START)).points
    assert (looked_at - taken_before_too).abs().max() > 1e-3  # another start, another path


class Begun(AbstractGameRule):
    """The optimistic gradient from a standstill: the gradient before the first one is zero."""

    plays = ("simultaneous",)

    def init(self, point):
        return {name: tuple(torch.zeros_like(p) for p in vector) for name, vector in point.items()}

    def direction(self, oracle, players, state):
        now = {player: oracle.gradient(player) for player in players}
        return {p: tuple(2 * g - b for g, b in zip(now[p], state[p], strict=True)) for p in players}, now


def test_past_extragradient_sees_what_a_clip_leaves_alone():
    """The direction is clipped in place; the gradient that is kept is as it was."""
    game = TwistedGame()
    _, state, _ = asked(PastExtragradient(), game, game.point(*START), lr=0.05)
    directions, state, _ = asked(PastExtragradient(), game, game.point(*START), lr=0.05, state=state)
    kept = {name: vector[0].clone() for name, vector in state["gradient"].items()}
    for vector in directions.values():
        vector[0].mul_(0.0)
    assert all(torch.equal(state["gradient"][name][0], kept[name]) for name in kept)


@pytest.mark.parametrize("optimizer", [None, adam()], ids=["sgd", "adam"])
def test_prediction_and_alex_gda_are_cases_of_the_extrapolated_form(optimizer):
    """Bit for bit, whatever makes the steps; and they are not alike among each other."""
    game = TwistedGame()
    settings = {"lr": 0.05, "steps": 12, "play": "alternating", "optimizer": optimizer, "start": game.point(*START)}

    def path(rule):
        return simulate(rule, game, **settings).points

    def lead(x, y):
        return LEAD({"x": x, "y": y}, cross="extrapolated")

    cases = [
        (Prediction("second"), lead(1.0, 0.0)),  # x meets where y would be
        (Prediction("first"), lead(0.0, 1.0)),
        (Prediction("both"), LEAD(1.0, cross="extrapolated")),
        (AlexGDA(1.0, delta=2.0), Prediction("second")),
        (AlexGDA(2.0, delta=1.0), Prediction("first")),
        (AlexGDA(2.5, delta=2.5), LEAD(1.5, cross="extrapolated")),
        (AlexGDA(1.5, delta=3.0), lead(2.0, 0.5)),
        (AlexGDA(1.0, delta=1.0), GradientPlay()),
    ]
    seen = []
    for rule, case in cases:
        seen.append(path(rule))
        assert torch.equal(seen[-1], path(case)), (rule, case)
    different = [seen[k] for k in (0, 1, 2, 5, 6, 7)]
    for k, one in enumerate(different):
        assert all((one - other).abs().max() > 1e-3 for other in different[:k])
    simultaneous = simulate(GradientPlay(), game, **(settings | {"play": "simultaneous"})).points
    assert torch.equal(path(AlexGDA(0.0, delta=1.0)), simultaneous)


def test_a_prediction_counts_all_moves_since_the_player_s_own_last_one_and_once():
    """As with several discriminator steps: x, x, y, x, x, y; y meets the sum of two moves, x's second turn none."""
    game, rule = TwistedGame(), AlexGDA(3.0, delta=2.0)
    point, state = game.point(*START), None
    where, last = dict(point), {"x": point["x"][0], "y": point["y"][0]}  # of the opponent, at one's own last turn
    state = rule.init(point)
    for player, other, weight in [("x", "y", 1.0), ("x", "y", 1.0), ("y", "x", 2.0)] * 2:
        oracle = GameOracle(where, [lambda place, wanted, *, replay: game.losses(place)])
        directions, state = rule.direction(oracle, (player,), state)
        ahead = where[other][0] + weight * (where[other][0] - last[other])
        x, y = (where["x"][0], ahead) if player == "x" else (ahead, where["y"][0])
        assert (directions[player][0] - Dense(game, x, y).gradient(player)).abs().max() < 1e-13
        assert oracle.evaluations == {"gradients": 1, "hessian_products": 0}
        last[other] = where[other][0]
        where = where | {player: (where[player][0] - 0.1 * directions[player][0],)}


def test_rules_that_predict_one_player_remember_that_player_alone():
    point = TwistedGame().point(*START)
    kept = {
        ("y",): [Prediction(), AlexGDA(1.0)],
        ("x",): [Prediction("first"), AlexGDA(1.5, delta=1.0)],
        ("x", "y"): [Prediction("both"), AlexGDA()],
        (): [AlexGDA(1.0, delta=1.0)],
    }
    for names, rules in kept.items():
        assert all(tuple(rule.init(point)["anchor"]) == names for rule in rules)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Prediction("second"), Prediction("both")),
        (Prediction("second"), Prediction("first")),
        (Prediction("both"), Prediction("first")),
        (AlexGDA(1.0, delta=1.0), AlexGDA()),
        (AlexGDA(2.0, delta=1.0), AlexGDA()),
    ],
    ids=repr,
)
def test_a_run_that_goes_on_with_another_setting_plays_by_it(before, after):
    """Who is met elsewhere from now on has not moved yet; who no longer is, is forgotten."""
    game, played = TwistedGame(), []
    for state in (None, "resumed"):
        where = game.point(*START)
        memory = after.init(where)
        if state is not None:
            _, memory, _ = asked(before, game, where, lr=0.05)
            memory = {**memory, "moved": dict.fromkeys(memory["moved"], False)}
        for t in range(4):
            player = ("x", "y")[t % 2]
            directions, memory = after.direction(
                GameOracle(where, [lambda place, wanted, *, replay: game.losses(place)]), [player], memory
            )
            where = where | {player: (where[player][0] - 0.1 * directions[player][0],)}
        played.append((where, memory["anchor"].keys()))
    assert played[0][1] == played[1][1] == after.init(where)["anchor"].keys()
    assert all(torch.equal(played[0][0][name][0], played[1][0][name][0]) for name in "xy")


@pytest.mark.parametrize("rule", [NuPI(1.0, nu=0.999), PolyakMomentum(0.999)], ids=repr)
def test_what_is_remembered_of_bf16_gradients_is_kept_in_float32(rule):
    """A thousandth of a number is rounded off in bf16, so that an average would stand still."""
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        point = {name: (torch.zeros(1, dtype=dtype),) for name in "xy"}
        state = rule.init(point)
        for t in range(1000):
            slope = 2.0 if t else 1.0
            loss = lambda p, wanted, *, replay, slope=slope: {"x": slope * p["x"][0].sum()}  # noqa: E731
            _, state = rule.direction(GameOracle(point, [loss], inspect=False), ["x"], state)
        ((kept,),) = (vectors["x"] for vectors in state.values())
        ends.append(kept)
    assert ends[1].dtype == torch.float32
    assert ends[1].item() == pytest.approx(ends[0].item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", [None, adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize("play", ["simultaneous", "alternating"])
def test_nu_pi_contains_gradient_play_and_the_optimistic_gradient(play, optimizer):
    game = TwistedGame()
    settings = {"lr": 0.05, "steps": 12, "play": play, "optimizer": optimizer, "start": game.point(*START)}

    def path(rule):
        return simulate(rule, game, **settings).points

    assert torch.equal(path(NuPI(0.0, nu=0.0)), path(GradientPlay()))
    assert torch.equal(path(NuPI(0.0, nu=0.7)), path(GradientPlay()))
    assert torch.equal(path(NuPI(1.0, nu=0.0)), path(OptimisticGradient()))
    assert torch.equal(path(NuPI(0.4, nu=0.0)), path(OptimisticGradient(0.4)))
    assert (path(NuPI(1.0, nu=0.5)) - path(OptimisticGradient())).abs().max() > 1e-3


def test_nu_pi_is_the_sum_of_its_controller():
    """Algorithm 1: θ(t+1) = θ(0) − η [Σ g + κ (ξ(t) − ξ(−1))], with ξ(−1) = g(0)."""
    game, kappa, nu, lr = TwistedGame(), 2.0, 0.6, 0.05
    rule, start = NuPI(kappa, nu=nu), game.point(*START)
    path = simulate(rule, game, lr=lr, steps=10, play="simultaneous", start=start).points
    seen = [gradients(game, z[:2], z[2:]) for z in path[:-1]]
    xi, total = seen[0], torch.zeros(5, dtype=torch.float64)
    for t, g in enumerate(seen):
        xi, total = nu * xi + (1 - nu) * g, total + g
        assert (path[t + 1] - (path[0] - lr * (total + kappa * (xi - seen[0])))).abs().max() < 1e-13


@pytest.mark.parametrize("level", [2, 3])
def test_level_k_adam_answers_the_steps_that_adam_would_make(level):
    """Expected moves leave the moments alone; the step that is made sees the last answer's gradients."""
    game = TwistedGame()
    path = simulate(LevelK(level), game, lr=0.05, steps=10, optimizer=adam(), start=game.point(*START))
    z, hand = path.points[0].clone(), HandWrittenAdam(5, 0.05, 0.5, 0.9)
    for t in range(1, 11):
        expected = z
        for k in range(level):
            x, y = z[:2], z[2:]
            against_y, against_x = expected[2:], expected[:2]
            g = torch.cat([gradients(game, x, against_y)[:2], gradients(game, against_x, y)[2:]])
            expected = z + (hand if k == level - 1 else copy.deepcopy(hand)).step(g)
        z = expected
        assert (path.points[t] - z).abs().max() < 1e-13


@pytest.mark.parametrize("optimizer", [None, adam()], ids=["sgd", "adam"])
def test_level_1_is_simultaneous_gradient_play_bit_for_bit(optimizer):
    game = TwistedGame()
    settings = {"lr": 0.05, "steps": 10, "optimizer": optimizer, "start": game.point(*START)}
    ours = simulate(LevelK(1), game, **settings)
    assert torch.equal(ours.points, simulate(GradientPlay(), game, play="simultaneous", **settings).points)
    assert not torch.equal(ours.points, simulate(LevelK(2), game, **settings).points)


def test_negative_adam_with_a_positive_beta_is_torch_s_adam():
    game = TwistedGame()
    ours = simulate(NegativeAdam(beta1=0.5), game, lr=0.05, steps=20, start=game.point(*START))
    theirs = simulate(GradientPlay(), game, lr=0.05, steps=20, optimizer=adam(), start=game.point(*START))
    assert (ours.points - theirs.points).abs().max() < 1e-12


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_ode_gan_follows_the_flow_with_the_order_of_its_scheme(scheme, order):
    """Without regularisation, against the exact flow exp(−Jt) of a quadratic game, at two step sizes."""
    game = QuadraticGame([[1.3]], curvature=0.4)
    start = game.point([1.0], [-0.5])
    flow = torch.linalg.matrix_exp(-game.jacobian(start) * 1.0) @ torch.tensor([1.0, -0.5], dtype=torch.float64)
    errors = []
    for steps in (16, 32):
        path = simulate(ODEGAN(scheme, regularization=0.0), game, lr=1.0 / steps, steps=steps, start=start)
        errors.append(float((path.points[-1] - flow).norm()))
    assert order - 0.25 < torch.tensor(errors[0] / errors[1]).log2() < order + 0.25


def test_ode_gan_s_regularisation_is_the_gradient_of_the_opponent_s_squared_gradient_norm():
    game = TwistedGame()
    point = game.point(*START)
    paths = [simulate(ODEGAN("euler", regularization=w), game, lr=1e-3, steps=1, start=point) for w in (0.0, 0.7)]
    moved = (paths[1].points[1] - paths[0].points[1])[:2] / -1e-3
    x, expected = point["x"][0], []
    for k in range(2):
        h = 1e-5 * torch.eye(2, dtype=torch.float64)[k]
        norms = [float(Dense(game, x + s * h, point["y"][0]).gradient("y").square().sum()) for s in (1, -1)]
        expected.append((norms[0] - norms[1]) / 2e-5)
    assert (moved / 0.7 - torch.tensor(expected)).abs().max() < 1e-6  # central differences
    assert torch.equal(paths[0].points[1][2:], paths[1].points[1][2:])


@pytest.fixture
def double():
    """The package makes its buffers of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def quietly(step, *losses):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated functions of torch
        step(*losses)


@pytest.mark.parametrize("solver", ["cg", "gmres"])
def test_acgd_agrees_with_its_authors_package(solver, double):
    """Theirs solves for one player and for the other by turns, ours for the first one: no matter, solved exactly."""
    game = TwistedGame(zero_sum=True)
    start = game.point(*START)
    x, y = (torch.nn.Parameter(v[0].clone()) for v in (start["x"], start["y"]))
    theirs = CGDs.ACGD([y], [x], lr_max=0.05, lr_min=0.05, tol=1e-24, atol=1e-30)
    ours = simulate(ACGD(solver, tolerance=1e-13), game, lr=0.05, steps=10, start=start)
    for t in range(1, 11):
        quietly(theirs.step, game.losses({"x": (x,), "y": (y,)})["x"])
        assert (ours.points[t] - torch.cat([x, y]).detach()).abs().max() < 1e-10  # both solve to 1e-12 of the gradient


def test_acgd_of_a_general_sum_game_agrees_with_its_authors_package(double):
    """Theirs solves for both moves in one system of n + m unknowns, ours for the first player's alone."""
    game = TwistedGame()
    start = game.point(*START)
    x, y = (torch.nn.Parameter(v[0].clone()) for v in (start["x"], start["y"]))
    theirs = CGDs.GACGD([x], [y], lr_x=0.05, lr_y=0.05, eps=1e-5, tol=1e-13, atol=1e-15)
    ours = simulate(ACGD("gmres", tolerance=1e-13), game, lr=0.05, steps=10, start=start)
    for t in range(1, 11):
        losses = game.losses({"x": (x,), "y": (y,)})
        quietly(theirs.step, losses["x"], losses["y"])
        assert (ours.points[t] - torch.cat([x, y]).detach()).abs().max() < 1e-10
    opposed = simulate(ACGD("gmres", tolerance=1e-13), TwistedGame(zero_sum=True), lr=0.05, steps=10, start=start)
    assert (opposed.points[-1] - ours.points[-1]).abs().max() > 1e-3  # it is another game


def test_lookahead_says_of_itself_what_its_inner_rule_says():
    """The checks of fit start and the layout of a step: all but the period, and that it averages weights."""
    for inner in [*LEAD.variants(), LEAD(cross_fraction=0.5), CGD("cg"), ODEGAN(), OptimisticAdam(), NegativeAdam()]:
        rule = LookaheadMinmax(inner=inner)
        assert rule.needs == dataclasses.replace(inner.needs, adjusts_weights=True, adds_to_step=False), inner
        for attribute in ("cost", "plays", "affine"):
            assert getattr(rule, attribute) == getattr(inner, attribute), (inner, attribute)


def test_high_levels_tend_to_the_proximal_point():
    """On a bilinear game: z⁺ = (I + ηJ)⁻¹ z; the error is that of a geometric series with ratio (ησ)²."""
    game = BilinearGame([[0.9, 0.2], [-0.3, 0.6]])
    start = game.point([1.0, 2.0], [-1.0, 0.5])
    z = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    proximal = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + 0.4 * game.jacobian(start), z)
    off = [
        float((simulate(LevelK(k), game, lr=0.4, steps=1, start=start).points[1] - proximal).norm())
        for k in (1, 2, 4, 8, 30)
    ]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-12 < 1e-2 < off[0]


def test_lead_converges_on_the_bilinear_game_where_descent_ascent_does_not():
    """Per game step: who converges at η = 0.3, by the spectral radius."""
    game = BilinearGame.from_singular_values([0.5, 1.0], seed=0)
    radius = {
        "simultaneous descent-ascent": spectral_radius(GradientPlay(), game, lr=0.3, play="simultaneous"),
        "alternating descent-ascent": spectral_radius(GradientPlay(), game, lr=0.3, play="alternating"),
        "heavy ball, β = 0.5": spectral_radius(PolyakMomentum(0.5), game, lr=0.3, play="simultaneous"),
        "LEAD": spectral_radius(LEAD(1.0), game, lr=0.3, play="simultaneous"),
        "optimistic": spectral_radius(OptimisticGradient(), game, lr=0.3),
        "lookahead": spectral_radius(LookaheadMinmax(), game, lr=0.3, play="alternating"),
    }
    assert radius["simultaneous descent-ascent"] > 1.01
    assert radius["alternating descent-ascent"] == pytest.approx(1, abs=1e-9)
    assert radius["heavy ball, β = 0.5"] > 1
    assert radius["LEAD"] < 1
    assert radius["LEAD"] == pytest.approx(radius["optimistic"], abs=1e-9)
    assert radius["lookahead"] < 1


# ---- the solve of competitive gradient descent -----------------------------------------------------------------------


def asked(rule, game, point, *, lr, state=None, oracle=GameOracle):
    """One game step in simultaneous play by hand: both moves, the next state, and the oracle that was asked."""
    parameters = {name: [torch.nn.Parameter(vector[0].clone())] for name, vector in point.items()}
    steps = Lookahead(parameters, [torch.optim.SGD([p for params in parameters.values() for p in params], lr=lr)])
    played = oracle(point, [lambda place, wanted, *, replay: game.losses(place)], lookahead=steps)
    directions, state = rule.direction(played, ("x", "y"), rule.init(point) if state is None else state)
    return {name: -lr * directions[name][0] for name in point}, state, played


class Shattered(GameOracle):
    """Second derivatives that are not numbers."""

    def hessian_product(self, player, terms, *, at=None):
        return tuple(t * float("nan") for t in super().hessian_product(player, terms, at=at))


@pytest.mark.parametrize("solver", ["cg", "gmres"])
def test_an_iterate_that_leaves_less_than_no_move_does_is_kept(solver):
    """After one iteration z is the multiple of b with the least error (cg) or residual (gmres)."""
    game, lr = TwistedGame(zero_sum=True), 0.5
    point = game.point(*START)
    with pytest.warns(UserWarning, match="CGD: .* after 1 iterations"):
        moves, state, oracle = asked(CGD(solver, tolerance=1e-12, max_iterations=1), game, point, lr=lr)
    dense = Dense(game, point["x"][0], point["y"][0])
    f, g = dense.block("x", "x", "y"), dense.block("y", "y", "x")
    matrix = torch.eye(2, dtype=torch.float64) - lr**2 * f @ g
    b = lr**0.5 * (dense.gradient("x") - lr * f @ dense.gradient("y"))
    along = matrix @ b
    z = b * ((b @ b) / (b @ along) if solver == "cg" else (b @ along) / (along @ along))
    left = float((b - matrix @ z).norm() / b.norm())
    assert 1e-3 < left < 1
    assert oracle.notes["solver/residual"] == pytest.approx(left, rel=1e-9)
    dx = -(lr**0.5) * z
    dy = -lr * (dense.gradient("y") + g @ dx)
    assert (moves["x"] - dx).abs().max() < 1e-13
    assert (moves["y"] - dy).abs().max() < 1e-13
    assert (state["guess"][0] - z).abs().max() < 1e-13  # where the next solve begins
    assert state["failures"] == oracle.notes["solver/not_converged"] == 1


@pytest.mark.parametrize("broken", ["the residual grows", "not finite, cg", "not finite, gmres"])
def test_where_the_iterate_is_worse_than_no_move_both_take_plain_steps_and_the_guess_is_forgotten(broken):
    """One iteration of conjugate gradients may raise the residual: here A = diag(1.01, 101) and b ∝ (1, 0.1)."""
    rule = CGD("gmres" if broken.endswith("gmres") else "cg", tolerance=1e-12, max_iterations=1)
    game = BilinearGame([[0.1, 0.0], [0.0, 10.0]])
    point = game.point([0.0, 0.0], [10.0, 0.01])
    kind = GameOracle if broken == "the residual grows" else Shattered
    with pytest.warns(UserWarning, match="else plain steps"):
        moves, state, oracle = asked(rule, game, point, lr=1.0, oracle=kind)
    assert not oracle.notes["solver/residual"] < 1
    for name in ("x", "y"):
        assert torch.equal(moves[name], -Dense(game, point["x"][0], point["y"][0]).gradient(name))
    assert state["guess"][0].tolist() == [0.0, 0.0]
    assert state["failures"] == oracle.notes["solver/not_converged"] == 1


@pytest.mark.parametrize("solver", ["cg", "gmres"])
@pytest.mark.parametrize("kind", [CGD, ACGD])
def test_hessian_products_are_as_many_as_documented(kind, solver):
    """4 + 2 × iterations, two less without a guess; the iterations as they are noted."""
    game, state, seen = TwistedGame(zero_sum=True), None, set()
    point = game.point(*START)
    for step in range(4):
        rule = kind(solver, tolerance=1e-12 if step < 3 else 0.9)  # solves of several lengths
        moves, state, oracle = asked(rule, game, point, lr=0.3, state=state)
        iterations = oracle.notes["solver/iterations"]
        expected = (4 if step else 2) + 2 * iterations
        assert oracle.evaluations == {"gradients": 2, "hessian_products": expected}
        seen.add(iterations)
        before, point = point, {name: (point[name][0] + moves[name],) for name in point}
    assert seen == {1.0, 2.0}
    if kind is CGD:  # once more from where it was: the guess is the solution
        _, _, oracle = asked(rule, game, before, lr=0.3, state=state)
        assert (oracle.notes["solver/iterations"], oracle.evaluations["hessian_products"]) == (0, 4)


@pytest.mark.filterwarnings("ignore:.*relative residual")
def test_products_of_a_solve_that_fails_are_counted_too():
    bilinear = BilinearGame([[0.1, 0.0], [0.0, 10.0]])
    point = bilinear.point([0.0, 0.0], [10.0, 0.01])
    _, state, oracle = asked(CGD("cg", max_iterations=1), bilinear, point, lr=1.0)  # plain steps: nobody answers
    assert (oracle.notes["solver/iterations"], oracle.evaluations["hessian_products"]) == (1, 2 + 2 - 1)
    _, _, oracle = asked(CGD("cg", max_iterations=1), bilinear, point, lr=1.0, state=state)
    assert (oracle.notes["solver/iterations"], oracle.evaluations["hessian_products"]) == (1, 4 + 2 - 1)

    # losses that are not opposites: the matrix has a negative curvature, which ends the first iteration
    class Common(QuadraticGame):
        def losses(self, point):
            f = super().losses(point)["x"]
            return {"x": f, "y": f}

    shared = Common([[2.0]], curvature=0.0)
    _, _, oracle = asked(CGD("cg"), shared, shared.point([1.0], [1.0]), lr=1.0)
    assert oracle.evaluations["hessian_products"] == 2 + 2 * oracle.notes["solver/iterations"] - 1 == 3


def test_a_solve_that_does_not_converge_is_counted_warned_of_and_survived():
    game = BilinearGame.from_singular_values([0.5, 1.0, 2.0, 4.0, 8.0], seed=1)
    match = Match(CGD("cg", tolerance=1e-12, max_iterations=1), game, lr=0.5)
    with pytest.warns(UserWarning, match=r"CGD: cg left a relative residual .* after 1 iterations"):
        match.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        match.step()
    assert match.state["failures"] == 2
    assert torch.isfinite(match.point["x"][0]).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PolyakMomentum(1.0), r"beta.*\(-1, 1\)"),
        (lambda: OptimisticGradient(-1.0), "optimism"),
        (lambda: LevelK(0), "integer ≥ 1"),
        (lambda: ODEGAN("rk5"), "'euler' or 'heun' or 'rk4'"),
        (lambda: ODEGAN(regularization=float("inf")), "regularization"),
        (lambda: CGD("lu"), "solver.*'lu'"),
        (lambda: ACGD(tolerance=2.0), "tolerance"),
        (lambda: ACGD(max_iterations=0), "max_iterations"),
        (lambda: LookaheadMinmax(alpha=0.0), "alpha"),
        (lambda: LookaheadMinmax(inner="LEAD"), "inner.*AbstractGameRule"),
        (lambda: NegativeAdam(beta1=-1.0), "beta1"),
        (lambda: Prediction("third"), "predicted.*'second' or 'first' or 'both'.*'third'"),
        (lambda: Prediction(True), "predicted.*True"),
        (lambda: AlexGDA(-0.5), "gamma"),
        (lambda: AlexGDA(delta=float("inf")), "delta"),
        (lambda: AlexGDA(float("nan")), "gamma"),
        (lambda: NuPI(float("inf")), "kappa"),
        (lambda: NuPI(float("nan")), "kappa"),
        (lambda: NuPI(nu=1.0), r"nu.*\(-1, 1\)"),
        (lambda: NuPI("high"), "kappa"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()

"""Closed forms against probing, and both against what the distance really does."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from linear_rate import leading_radius

import lightning_lead.rules as rules
from lightning_lead import ConfigurationError
from lightning_lead._checks import is_class
from lightning_lead.analysis import (
    Block,
    block_eigenvalues,
    closed_form_radius,
    eigenvalues,
    recurrence_roots,
    simulate,
    spectral_radius,
    update_operator,
)
from lightning_lead.games import AbstractGame, BilinearGame, QuadraticGame
from lightning_lead.rules import (
    CGD,
    LEAD,
    AbstractGameRule,
    AlexGDA,
    Extragradient,
    GradientPlay,
    LevelK,
    LookaheadMinmax,
    NuPI,
    OptimisticAdam,
    OptimisticGradient,
    PastExtragradient,
    PolyakMomentum,
    Prediction,
    SymplecticGradientAdjustment,
)


def affine_rules() -> list[AbstractGameRule]:
    classes = [getattr(rules, name) for name in rules.__all__]
    classes = [c for c in classes if is_class(c) and issubclass(c, AbstractGameRule)]
    affine = [rule for c in classes if c is not AbstractGameRule for rule in c.variants() if rule.affine]
    # around a rule with a memory lookahead has no closed form, see below
    return [r for r in affine if not isinstance(r, LookaheadMinmax) or isinstance(r.inner, GradientPlay)]


def label(rule: AbstractGameRule) -> str:
    settings = [str(v) for k, v in sorted(vars(rule).items()) if isinstance(v, (int, float, str)) and k != "period"]
    return ",".join([rule.name, *settings])


CASES = [(rule, play) for rule in affine_rules() for play in rule.plays]
IDS = [f"{label(rule)}-{play}" for rule, play in CASES]


def random_games() -> Iterator[tuple[QuadraticGame, float]]:
    """Seven games and step sizes: every shape up to 3 × 3, curvature from none to more than the coupling."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(1, 1), (2, 2), (3, 3), (1, 2), (3, 2), (2, 3), (2, 1)]
    for k, (n, m) in enumerate(shapes):
        coupling = torch.randn(n, m, generator=generator, dtype=torch.float64)
        curvature = float(torch.rand((), generator=generator)) * (2.0 if k % 3 else 0.2)
        if n == m and k % 2:
            curvature = 0.0
        yield QuadraticGame(coupling, curvature=curvature), 0.1 + 0.4 * float(torch.rand((), generator=generator))


GAMES = list(random_games())


def optimizer(momentum: float):
    return lambda groups: torch.optim.SGD(groups, momentum=momentum)


@pytest.mark.parametrize(("rule", "play"), CASES, ids=IDS)
def test_closed_form_is_what_probing_finds(rule: AbstractGameRule, play) -> None:
    for game, lr in GAMES:
        operator = update_operator(rule, game, lr=lr, play=play)
        assert closed_form_radius(rule, game, lr=lr, play=play) == pytest.approx(operator.radius, abs=1e-10)
        sigma = torch.linalg.svdvals(game.coupling)
        # zeros belong to a nilpotent part, which eigensolvers spread over a disc of radius (1e-16)^(1/size)
        mine = eigenvalues(rule, sigma=sigma, curvature=game.curvature, lr=lr, play=play).reshape(-1)
        mine = mine[mine.abs() > 0.05]
        away = (mine[:, None] - operator.eigenvalues[None, :]).abs().min(dim=1).values
        assert float(away.max()) < 1e-7  # near a double root an eigenvalue is known to the square root of rounding


MOMENTUM = [GradientPlay(), OptimisticGradient(0.7), OptimisticAdam(), PolyakMomentum(-0.3), LEAD(2.0)]
MOMENTUM += [AlexGDA(1.5, delta=2.5), AlexGDA(0.0, delta=1.0), Prediction(), Prediction("first"), NuPI(2.0, nu=0.8)]
MOMENTUM += [SymplecticGradientAdjustment(0.3, align=False), rules.ConsensusOptimization(0.3)]


@pytest.mark.parametrize("rule", MOMENTUM, ids=label)
def test_momentum_of_the_optimizer_is_in_the_closed_form(rule: AbstractGameRule) -> None:
    for play in rule.plays:
        for game, lr in GAMES[1::2]:  # without curvature, with a little, and with much
            probed = spectral_radius(rule, game, lr=lr, play=play, optimizer=optimizer(0.6))
            assert closed_form_radius(rule, game, lr=lr, play=play, momentum=0.6) == pytest.approx(probed, abs=1e-10)


@pytest.mark.parametrize("play", ["simultaneous", "alternating"])
def test_lead_is_the_optimistic_gradient_with_more_momentum_on_quadratic_games(play) -> None:
    """The gradient's change is the cross term and ηha of momentum."""
    h, eta, a, beta = 0.3, 0.2, 3.0, 0.5
    settings = {"sigma": torch.tensor([0.4, 1.7]), "curvature": h, "lr": eta, "play": play}
    lead = eigenvalues(LEAD(a), momentum=beta, **settings)
    optimistic = eigenvalues(OptimisticGradient(a), momentum=beta + eta * h * a, **settings)
    away = (lead[:, :, None] - optimistic[:, None, :]).abs().min(dim=2).values
    assert float(away.max()) < 1e-10
    less = eigenvalues(OptimisticGradient(a), momentum=beta, **settings)
    assert float((lead[:, :, None] - less[:, None, :]).abs().min(dim=2).values.max()) > 1e-2


def test_alternating_lead_is_the_quartic_of_its_derivation() -> None:
    h, eta, a, beta, sigma = 0.3, 0.2, 3.0, 0.5, 1.7
    z = eigenvalues(LEAD(a), sigma=sigma, curvature=h, lr=eta, play="alternating", momentum=beta)
    u = torch.sqrt(-z)  # of one sign or the other
    alpha = eta * a
    even = u**4 + (1 + beta - eta * h) * u**2 + beta
    odd = sigma * (eta + alpha) * u**3 + sigma * alpha * u
    assert torch.minimum((even - odd).abs(), (even + odd).abs()).max() < 1e-12


@pytest.mark.parametrize("play", ["simultaneous", "alternating"])
def test_nu_pi_has_the_spectrum_of_the_optimistic_gradient_with_momentum_and_of_heavy_ball(play) -> None:
    """Optimism ν/(1 − ν) + κ, which is 0 where κ = −ν/(1 − ν): Theorem 1 of its paper."""
    nu, lr = 0.4, 0.3
    settings = {"sigma": torch.tensor([0.4, 1.7]), "curvature": 0.3, "play": play}

    def away(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one[:, :, None] - other[:, None, :]).abs().min(dim=2).values.max())

    for kappa in (0.5, 3.0):
        controller = eigenvalues(NuPI(kappa, nu=nu), lr=lr, **settings)
        momentum = {"lr": lr * (1 - nu), "momentum": nu, **settings}
        optimistic = eigenvalues(OptimisticGradient(nu / (1 - nu) + kappa), **momentum)
        assert max(away(controller, optimistic), away(optimistic, controller)) < 1e-10
        assert away(eigenvalues(OptimisticGradient(kappa), **momentum), controller) > 1e-2
    controller = eigenvalues(NuPI(-nu / (1 - nu), nu=nu), lr=lr, **settings)
    assert away(eigenvalues(PolyakMomentum(nu), lr=lr * (1 - nu), **settings), controller) < 1e-10
    assert away(eigenvalues(PolyakMomentum(-nu), lr=lr * (1 - nu), **settings), controller) > 1e-2


def test_alex_gda_and_prediction_are_cases_of_each_other_and_of_lead() -> None:
    settings = {"sigma": torch.tensor([0.4, 1.7]), "curvature": 0.3, "lr": 0.2, "play": "alternating"}
    for momentum in (0.0, 0.6):
        for rule, case in [
            (LEAD(1.4), AlexGDA(2.4, delta=2.4)),
            (LEAD(1.0), Prediction("both")),
            (AlexGDA(1.0, delta=2.0), Prediction("second")),
            (AlexGDA(2.0, delta=1.0), Prediction("first")),
            (Prediction("second"), Prediction("first")),  # only the first step tells who begins
            (GradientPlay(), AlexGDA(1.0, delta=1.0)),
        ]:
            one, other = (eigenvalues(r, momentum=momentum, **settings) for r in (rule, case))
            for a, b in ((one, other), (other, one)):
                away = (a[:, :, None] - b[:, None, :]).abs().min(dim=2).values
                assert float(away[a.abs() > 0.05].max()) < 1e-10, (rule, case)
    simultaneous = eigenvalues(GradientPlay(), **(settings | {"play": "simultaneous"}))
    alex = eigenvalues(AlexGDA(0.0, delta=1.0), **settings)
    assert float((simultaneous[:, :, None] - alex[:, None, :]).abs().min(dim=2).values.max()) < 1e-10


@pytest.mark.parametrize("rule", [GradientPlay(), LEAD(1.0), Extragradient(), LevelK(3), CGD()], ids=label)
def test_simultaneous_play_of_a_bilinear_game_by_the_textbook(rule: AbstractGameRule) -> None:
    q = 0.3 * 1.4
    expected = {
        "GradientPlay": math.sqrt(1 + q**2),
        "Extragradient": math.sqrt((1 - q**2) ** 2 + q**2),
        "LevelK": abs(1 + 1j * q - q**2 - 1j * q**3),
        "CGD": 1 / math.sqrt(1 + q**2),
        "LEAD": max(abs((1 - 2j * q + s * (1 - 4 * q**2) ** 0.5) / 2) for s in (1, -1)),  # of optimistic play
    }[rule.name]
    game = BilinearGame([[1.4]])
    assert closed_form_radius(rule, game, lr=0.3, play="simultaneous") == pytest.approx(expected, abs=1e-14)


def test_a_closed_form_with_the_coupling_s_sign_flipped_is_seen() -> None:
    """The negative control: LEAD with −a, and level-k with the answer's sign flipped, are far off."""
    game, lr = QuadraticGame([[1.0, 0.2], [0.3, 0.6]], curvature=0.1), 0.3
    sigma = torch.linalg.svdvals(game.coupling)
    for play in ("simultaneous", "alternating"):
        block = Block(sigma, 0.1, lr, play, 0.0)
        flipped = recurrence_roots(block, [0.1], [1 - 1.0, 1.0]).abs().max()
        assert abs(float(flipped) - spectral_radius(LEAD(1.0), game, lr=lr, play=play)) > 1e-3
    step = lr * Block(sigma, 0.1, lr, "simultaneous", 0.0).jacobian
    flipped = (1 - step * (1 + step)).abs().max()
    assert abs(float(flipped) - spectral_radius(Extragradient(), game, lr=lr)) > 1e-3


# Rates that are measured. ------------------------------------------------------------------------------------------


def measured_rate(path: torch.Tensor, coupling: torch.Tensor, *, leading: int = 2) -> float:
    """How fast the slowest pair of singular directions shrinks, per step.

    Each pair by itself, because two that decay almost equally fast would need very many steps to be told apart in their
    sum.
    """
    n = coupling.shape[0]
    left, _, right = torch.linalg.svd(coupling)
    pairs = zip((path[:, :n] @ left).T, (path[:, n:] @ right.T).T, strict=True)
    return max(leading_radius(torch.stack(pair, dim=1), leading=leading) for pair in pairs)


def random_coupling(size: int, generator: torch.Generator) -> torch.Tensor:
    """Singular values in [0.4, 2]: one that is hardly there would not turn once while it is watched."""
    sigma = 0.4 + 1.6 * torch.rand(size, generator=generator, dtype=torch.float64)
    seed = int(torch.randint(1000, (), generator=generator))
    return BilinearGame.from_singular_values(sigma.tolist(), seed=seed).coupling


class SideBySide(AbstractGame):
    """Quadratic games on the diagonal: they do not meet, so they are played as one, in the time of one."""

    def __init__(self, games: list[QuadraticGame]) -> None:
        self.coupling = torch.block_diag(*(game.coupling for game in games))
        self.curvature = torch.cat([torch.full((len(g.coupling),), g.curvature, dtype=torch.float64) for g in games])
        super().__init__(dimensions=tuple(self.coupling.shape), dtype=torch.float64)

    def losses(self, point):
        (x,), (y,) = point["x"], point["y"]
        value = (self.curvature * (x * x - y * y)).sum() / 2 + x @ self.coupling @ y
        return {"x": value, "y": -value}

    def field(self, point):
        (x,), (y,) = point["x"], point["y"]
        h, a = self.curvature, self.coupling
        return {"x": (h * x + a @ y,), "y": (h * y - a.T @ x,)}

    def jacobian(self, point):
        h, a = self.curvature.diag(), self.coupling
        return torch.cat([torch.cat([h, a], 1), torch.cat([-a.T, h], 1)])


TOGETHER = [(rule, play) for rule, play in CASES if not isinstance(rule, CGD)]


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "play"), TOGETHER, ids=[f"{label(r)}-{p}" for r, p in TOGETHER])
def test_the_distance_shrinks_at_the_rate_of_the_spectrum(rule: AbstractGameRule, play) -> None:
    generator = torch.Generator().manual_seed(1)
    games = [
        QuadraticGame(random_coupling(k % 2 + 1, generator), curvature=curvature)
        for curvature in (0.0, 0.1, 0.3)
        for k in range(3)
    ]
    together = SideBySide(games)
    path = simulate(rule, together, lr=0.15, play=play, steps=60).points[:: rule.period]
    leading = 4 if isinstance(rule, NuPI) and rule.nu > 0.5 else 2  # what it remembers decays as slowly as the rest
    at, n = 0, together.dimensions[0]
    for game in games:
        size = len(game.coupling)
        own = torch.cat([path[:, at : at + size], path[:, n + at : n + at + size]], dim=1)
        at += size
        expected = closed_form_radius(rule, game, lr=0.15, play=play)
        found = measured_rate(own, game.coupling, leading=leading) ** (1 / rule.period)
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("solver", ["gmres", "cg"])
def test_competitive_gradient_descent_shrinks_at_the_rate_of_the_spectrum(solver) -> None:
    # the solver looks at all games on the diagonal together, so each is played by itself; nothing has to die away first
    generator = torch.Generator().manual_seed(4)
    rule = CGD(solver, tolerance=1e-11)
    for k in range(8):
        coupling = random_coupling(k % 2 + 1, generator)
        game = QuadraticGame(coupling, curvature=0.1 * (k % 4))
        path = simulate(rule, game, lr=0.2, steps=5).points
        assert measured_rate(path, coupling) == pytest.approx(closed_form_radius(rule, game, lr=0.2), abs=1e-9)


# Errors. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "settings", "words"),
    [
        (rules.NegativeAdam(), {}, "NegativeAdam.*none is registered"),
        (SymplecticGradientAdjustment(), {}, "alignment.*align=False"),
        (CGD(), {"momentum": 0.5}, "CGD.*momentum=0"),
        (Extragradient(), {"momentum": 0.5}, "Extragradient.*momentum=0"),
        (rules.ODEGAN(), {"momentum": 0.5}, "ODEGAN.*plain steps"),
        (PastExtragradient(), {"momentum": 0.5}, "PastExtragradient.*momentum=0"),
        (AlexGDA(), {"play": "simultaneous"}, "'simultaneous' play; use alternating"),
        (LookaheadMinmax(inner=NuPI()), {}, "memory.*inner rule without one"),
        (LookaheadMinmax(inner=Prediction()), {}, "memory.*inner rule without one"),
        (rules.LEAD({"x": 0.5, "y": 1.0}), {}, "couplings of their own.*one coupling"),
        (LookaheadMinmax(inner=OptimisticGradient()), {}, "memory.*inner rule without one"),
        (LookaheadMinmax(inner=LookaheadMinmax(2)), {}, "memory.*inner rule without one"),
        (LookaheadMinmax(inner=LookaheadMinmax(1)), {}, "memory.*inner rule without one"),
        (GradientPlay(), {"momentum": 1.0}, r"\(-1, 1\) \(got 1.0\)"),
        (GradientPlay(), {"lr": 0.0}, "lr=0.0"),
        (CGD(), {"play": "alternating"}, "'alternating' play; use simultaneous"),
    ],
)
def test_what_has_no_closed_form_is_refused(rule: AbstractGameRule, settings, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        eigenvalues(rule, **({"sigma": 1.0, "lr": 0.1} | settings))


def test_nested_lookahead_is_not_lookahead_of_lookahead_s_closed_form() -> None:
    """Why it is refused: taking the inner eigenvalues back in the same way is off by far; probing has the answer."""
    game, inner = QuadraticGame([[1.0]], curvature=0.2), LookaheadMinmax(2, alpha=0.5)
    probed = update_operator(LookaheadMinmax(3, alpha=0.5, inner=inner), game, lr=0.3, play="alternating").radius
    z = eigenvalues(inner, sigma=1.0, curvature=0.2, lr=0.3, play="alternating")  # of two game steps
    wrong = float((0.5 + 0.5 * z**3).abs().max()) ** (1 / 6)
    assert abs(wrong - probed) > 1e-3


def test_every_affine_rule_has_a_closed_form() -> None:
    default = block_eigenvalues.dispatch(AbstractGameRule)
    assert [rule.name for rule in affine_rules() if block_eigenvalues.dispatch(type(rule)) is default] == []

"""The cross term against a dense Jacobian, against central differences, and against itself where forms must agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from lightning_lead import DifferentiationError
from lightning_lead.calculus import CrossTerm, GameOracle, cross_term, gradient
from lightning_lead.calculus._graph import LossGraph


class SmoothGAN:
    """A small GAN on smooth networks in float64, as functions of a point."""

    def __init__(self, *, zero_sum: bool) -> None:
        torch.manual_seed(3)
        self.generator = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        self.discriminator = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1)).double()
        self.real, self.latents = torch.randn(7, 2).double(), torch.randn(7, 3).double()
        self.zero_sum = zero_sum

    def point(self):
        return {
            "discriminator": tuple(p.detach().clone() for p in self.discriminator.parameters()),
            "generator": tuple(p.detach().clone() for p in self.generator.parameters()),
        }

    def losses(self, point, wanted=None, *, replay=False):
        def call(net, vector, x):
            return functional_call(net, dict(zip(dict(net.named_parameters()), vector, strict=True)), (x,))

        fake = call(self.discriminator, point["discriminator"], call(self.generator, point["generator"], self.latents))
        real = call(self.discriminator, point["discriminator"], self.real)
        soft = nn.functional.softplus
        value = (soft(-real) + soft(fake)).mean()
        return {"discriminator": value, "generator": -value if self.zero_sum else soft(-fake).mean()}


def flat(vector):
    return torch.cat([t.reshape(-1) for t in vector])


def unflat(values, like):
    return tuple(part.view_as(t) for part, t in zip(values.split([t.numel() for t in like]), like, strict=True))


def displaced(point, scale=0.1):
    generator = torch.Generator().manual_seed(11)
    return {
        k: tuple(scale * torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in v) for k, v in point.items()
    }


def relative(a, b):
    return ((flat(a) - flat(b)).norm() / flat(b).norm()).item()


def term_of(game, player, form):
    point = game.point()
    (opponent,) = set(point) - {player}
    delta = displaced(point)[opponent]
    oracle = GameOracle(point, [game.losses])
    total = oracle.gradient(player, cross=CrossTerm(1.0, delta, form))
    plain = GameOracle(point, [game.losses]).gradient(player)
    return tuple(t - p for t, p in zip(total, plain, strict=True)), point, opponent, delta


@pytest.mark.parametrize("form", ["opponent", "own"])
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_exact_cross_term_is_the_dense_mixed_jacobian_times_the_displacement(player, form):
    game = SmoothGAN(zero_sum=False)
    term, point, opponent, delta = term_of(game, player, form)
    of, sign = (opponent, -1.0) if form == "opponent" else (player, 1.0)

    def loss(own, other):
        values = {player: unflat(own, point[player]), opponent: unflat(other, point[opponent])}
        return game.losses(values)[of]

    mixed = torch.func.jacrev(torch.func.jacrev(loss, argnums=1), argnums=0)(flat(point[player]), flat(point[opponent]))
    twin = sign * mixed.T @ flat(delta)
    assert relative(term, (twin,)) < 1e-9


@pytest.mark.parametrize("form", ["opponent", "own"])
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_exact_cross_term_is_the_central_difference_of_the_own_gradient(player, form):
    game = SmoothGAN(zero_sum=False)
    term, point, opponent, delta = term_of(game, player, form)
    of, sign = (opponent, -1.0) if form == "opponent" else (player, 1.0)
    step = 1e-4

    def slope(h):
        here = {k: tuple(t.clone().requires_grad_() for t in v) for k, v in point.items()}
        here[opponent] = tuple(t.detach() + h * d for t, d in zip(here[opponent], delta, strict=True))
        return flat(torch.autograd.grad(game.losses(here)[of], here[player]))

    assert relative(term, (sign * (slope(step) - slope(-step)) / (2 * step),)) < 1e-6


def test_opponent_and_own_form_agree_exactly_when_the_game_is_zero_sum_and_not_otherwise():
    for zero_sum in (True, False):
        game = SmoothGAN(zero_sum=zero_sum)
        difference = relative(term_of(game, "generator", "own")[0], term_of(game, "generator", "opponent")[0])
        assert (difference < 1e-12) is zero_sum


def test_difference_form_is_the_gradient_now_minus_the_gradient_against_the_earlier_opponent():
    game = SmoothGAN(zero_sum=False)
    term, point, opponent, delta = term_of(game, "generator", "difference")
    before = {**point, opponent: tuple(t - d for t, d in zip(point[opponent], delta, strict=True))}
    oracle = GameOracle(point, [game.losses])
    now, then = oracle.gradient("generator"), oracle.gradient("generator", at=before)
    assert relative(term, tuple(a - b for a, b in zip(now, then, strict=True))) < 1e-12


def test_micro_batches_average_by_their_weights():
    x = torch.tensor(1.0, dtype=torch.float64)
    halves = [
        lambda p, w, *, replay, k=k: {"x": k * p["x"][0] * p["y"][0], "y": -p["x"][0] * p["y"][0]} for k in (1, 3)
    ]
    oracle = GameOracle({"x": (x,), "y": (2 * x,)}, halves, weights=[0.25, 0.75])
    assert oracle.gradient("x")[0].item() == pytest.approx(2 * (0.25 * 1 + 0.75 * 3))


def test_statistics_hold_the_loss_the_norms_and_the_cosine():
    game = SmoothGAN(zero_sum=False)
    point = game.point()
    oracle = GameOracle(point, [game.losses])
    delta = displaced(point)["discriminator"]
    direction = oracle.gradient("generator", cross=CrossTerm(2.0, delta, "opponent"))
    stats = oracle.statistics["generator"]
    gradient_only = flat(GameOracle(point, [game.losses]).gradient("generator"))
    cross = (flat(direction) - gradient_only) / 2.0
    assert stats.loss.item() == pytest.approx(game.losses(point)["generator"].item())
    assert stats.gradient_norm.item() == pytest.approx(gradient_only.norm().item())
    assert stats.cross_norm.item() == pytest.approx(cross.norm().item())
    assert stats.cosine.item() == pytest.approx((cross @ gradient_only / (cross.norm() * gradient_only.norm())).item())


def test_a_player_that_the_loss_ignores_is_an_error_that_names_it():
    x = torch.tensor(1.0)
    oracle = GameOracle({"x": (x,), "y": (x,)}, [lambda p, w, *, replay: {"x": p["y"][0] ** 2, "y": p["y"][0]}])
    with pytest.raises(DifferentiationError, match="'x'.*depends on none"):
        oracle.gradient("x")


@pytest.mark.parametrize("form", ["opponent", "own", "difference"])
def test_a_loss_that_ignores_the_opponent_has_no_cross_term(form):
    x = torch.tensor(1.0)
    oracle = GameOracle({"x": (x,), "y": (x,)}, [lambda p, w, *, replay: {"x": p["x"][0] ** 2, "y": p["y"][0] ** 2}])
    assert oracle.gradient("x", cross=CrossTerm(1.0, (x,), form)) == (torch.tensor(2.0),)
    assert oracle.statistics["x"].cross_norm == 0
    assert oracle.statistics["x"].cosine == 0


@pytest.mark.parametrize("form", ["opponent", "own"])
def test_a_loss_that_depends_on_the_opponent_through_a_detach_is_an_error(form):
    def losses(p, wanted, *, replay):
        return {"x": p["x"][0] ** 2 * p["y"][0].detach(), "y": p["y"][0] ** 2 * p["x"][0].detach()}

    x = torch.tensor(1.0)
    with pytest.raises(DifferentiationError, match="detached"):
        GameOracle({"x": (x,), "y": (x,)}, [losses]).gradient("x", cross=CrossTerm(1.0, (x,), form))


def test_cross_term_of_a_known_function():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    field = gradient((x**3).sum() * y.sum(), (y,), create_graph=True)
    (term,) = cross_term(field, (x,), (torch.tensor([2.0], dtype=torch.float64),))
    assert term.tolist() == [6.0, 24.0]


@pytest.mark.parametrize(
    ("loss", "meets"),
    [
        (lambda x, y: (x * y).sum(), True),
        (lambda x, y: (x * y.detach()).sum(), True),  # as the discriminator's loss is mostly written
        (lambda x, y: x.sum() + y.sum(), True),
        (lambda x, y: x.sum(), False),
        (lambda x, y: x.detach().sum(), False),
        (lambda x, y: x.sum() * float("nan"), True),  # undecidable
    ],
)
@pytest.mark.parametrize("by_backward", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_players_meet_where_a_loss_depends_on_the_opponent_also_through_a_detach(loss, meets, by_backward, dtype):
    x, y = torch.full((2,), 3.0, dtype=dtype), torch.full((2,), 5.0, dtype=dtype)
    losses = [lambda p, w, *, replay: {"x": loss(p["x"][0], p["y"][0])}]
    oracle = GameOracle({"x": (x,), "y": (y,)}, losses, graphs=dict.fromkeys("xy", LossGraph(by_backward, True)))
    assert oracle.interacts("x") == meets


@pytest.mark.parametrize("form", [None, "difference"])
def test_gradients_by_backward_are_the_same_ones(form):
    game = SmoothGAN(zero_sum=False)
    point = game.point()
    found = []
    for by_backward in (False, True):
        graphs = dict.fromkeys(point, LossGraph(by_backward, True))
        oracle = GameOracle(point, [game.losses, game.losses], graphs=graphs)
        for player, opponent in (("generator", "discriminator"), ("discriminator", "generator")):
            cross = form and CrossTerm(0.5, displaced(point)[opponent], form)
            found.append(flat(oracle.gradient(player, cross=cross)))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert all(p.grad is None for vector in point.values() for p in vector)


def test_a_gradient_by_backward_leaves_nothing_on_its_parameters():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    unused = torch.zeros(3, requires_grad=True)
    for _ in range(2):
        (of_x, of_unused) = gradient((x**2).sum(), (x, unused), by_backward=True)
        assert (of_x.tolist(), of_unused.tolist()) == ([2.0, 4.0], [0.0] * 3)
    assert x.grad is None
    with pytest.raises(DifferentiationError, match="depends on none"):
        gradient((x**2).sum(), (unused,), by_backward=True)


def test_the_cross_term_of_complex_parameters_is_that_of_their_parts():
    """As torch's gradients are: ∂L/∂(real part) + i ∂L/∂(imaginary part)."""
    torch.manual_seed(0)
    x, y, moved = torch.randn(3, 4, 2, dtype=torch.float64)

    def losses(point, wanted, *, replay):
        a, b = (p if p.is_complex() else torch.view_as_complex(p) for p in (point["x"][0], point["y"][0]))
        value = (a * b.conj() * (1 + 0.3j) + a * a * b).real.sum() + (a.abs() ** 2 * b.abs()).sum()
        return {"x": value, "y": -value}

    terms = []
    for view in (torch.view_as_complex, lambda parts: parts):
        oracle = GameOracle({"x": (view(x),), "y": (view(y),)}, [losses])
        (direction,) = oracle.gradient("x", cross=CrossTerm(1.5, (view(moved),), "opponent"))
        terms.append(torch.view_as_real(direction) if direction.is_complex() else direction)
    assert (terms[0] - terms[1]).abs().max() < 1e-12

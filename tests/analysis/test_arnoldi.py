"""Eigenvalues from products against those of the Jacobian that torch.func writes out."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import softplus

from lightning_lead import ConfigurationError
from lightning_lead.analysis import dense_jacobian, game_spectrum
from lightning_lead.calculus import GameOracle
from lightning_lead.games import QuadraticGame


class SmoothGAN:
    """Tanh networks in float64, batch norm in the generator: 52 parameters in all."""

    def __init__(self) -> None:
        self.generator = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.discriminator = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.names = {name: [n for n, _ in net.named_parameters()] for name, net in self.networks.items()}
        self.point = {name: tuple(p.detach() for p in net.parameters()) for name, net in self.networks.items()}
        generator = torch.Generator().manual_seed(1)
        self.latents, self.real = (torch.randn(32, 2, generator=generator, dtype=torch.float64) for _ in range(2))

    def losses(self, point, wanted=None, *, replay=True):
        weights = {name: dict(zip(self.names[name], point[name], strict=True)) for name in self.networks}
        buffers = {n: b.clone() for n, b in self.generator.named_buffers()}  # a replay works on copies
        fake = functional_call(self.generator, weights["generator"] | (buffers if replay else {}), (self.latents,))
        on_fake, on_real = (
            functional_call(self.discriminator, weights["discriminator"], (t,)) for t in (fake, self.real)
        )
        return {
            "generator": softplus(-on_fake).mean(),
            "discriminator": softplus(on_fake).mean() + softplus(-on_real).mean(),
        }

    def jacobian(self) -> torch.Tensor:
        """By autograd through the joint gradient, a row at a time."""
        point = {name: tuple(p.clone().requires_grad_() for p in vector) for name, vector in self.point.items()}
        values, every = self.losses(point), [p for vector in point.values() for p in vector]
        field = [torch.autograd.grad(values[n], point[n], create_graph=True) for n in point]
        rows = []
        for entry in torch.cat([g.reshape(-1) for grads in field for g in grads]):
            row = torch.autograd.grad(entry, every, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [(torch.zeros_like(p) if r is None else r).reshape(-1) for r, p in zip(row, every, strict=True)]
                )
            )
        return torch.stack(rows)


@pytest.fixture
def gan() -> SmoothGAN:
    return SmoothGAN()


def test_the_dense_jacobian_is_that_of_autograd(gan: SmoothGAN) -> None:
    torch.testing.assert_close(dense_jacobian(GameOracle(gan.point, [gan.losses])), gan.jacobian(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", ["LM", "LI", "LR", "SR"])
def test_the_outermost_eigenvalues_are_found(gan: SmoothGAN, which) -> None:
    every = torch.linalg.eigvals(gan.jacobian())
    found = game_spectrum(GameOracle(gan.point, [gan.losses]), k=4, which=which, tolerance=0)
    key = {"LM": abs, "LI": lambda z: z.imag.abs(), "LR": lambda z: z.real, "SR": lambda z: -z.real}[which]
    expected = key(every).sort(descending=True).values[:4]
    torch.testing.assert_close(key(found), expected, rtol=0, atol=1e-8)
    away = (found[:, None] - every[None, :]).abs().min(dim=1).values
    assert float(away.max()) < 1e-8
    assert float((found[:, None] * 1.01 - every[None, :]).abs().min(dim=1).values.max()) > 1e-6  # the control


def test_several_micro_batches_count_by_their_weights(gan: SmoothGAN) -> None:
    twice = GameOracle(gan.point, [gan.losses, gan.losses], weights=[0.25, 0.75])
    torch.testing.assert_close(dense_jacobian(twice), gan.jacobian(), rtol=0, atol=1e-12)


def test_buffers_are_left_alone_and_every_evaluation_is_a_replay(gan: SmoothGAN) -> None:
    asked = []

    def losses(point, wanted, *, replay):
        asked.append(replay)
        return gan.losses(point, replay=replay)

    @contextmanager
    def place(point):
        yield

    before = [b.clone() for b in gan.generator.buffers()]
    game_spectrum(GameOracle(gan.point, [losses], swap=place), k=2)
    assert asked
    assert all(asked)
    assert all(torch.equal(a, b) for a, b in zip(before, gan.generator.buffers(), strict=True))
    losses(gan.point, None, replay=False)  # the control: a real forward does move them
    assert not all(torch.equal(a, b) for a, b in zip(before, gan.generator.buffers(), strict=True))


def test_a_quadratic_game_has_its_singular_values_on_the_imaginary_axis() -> None:
    game = QuadraticGame(torch.diag(torch.arange(1.0, 21.0)), curvature=0.5)
    oracle = GameOracle(game.random_point(seed=0), [lambda point, wanted, *, replay: game.losses(point)])
    found = game_spectrum(oracle, k=2, which="LI")
    assert found.imag.abs().tolist() == pytest.approx([20.0, 20.0])
    assert found.real.tolist() == pytest.approx([0.5, 0.5])
    torch.testing.assert_close(dense_jacobian(oracle), game.jacobian(game.equilibrium()))


def test_bad_questions_are_refused(gan: SmoothGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = GameOracle(gan.point, [gan.losses])
    with pytest.raises(ConfigurationError, match="which='XX'"):
        game_spectrum(oracle, which="XX")
    for k in (0, 10_000, True):
        with pytest.raises(ConfigurationError, match="1 to n - 2"):
            game_spectrum(oracle, k=k)
    with pytest.raises(ConfigurationError, match="did not converge.*max_iterations"):
        game_spectrum(oracle, k=5, which="SR", tolerance=0, max_iterations=1)
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ConfigurationError, match="SciPy is not installed; run `pip install"):
        game_spectrum(oracle)

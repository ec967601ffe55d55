"""Gradient penalties: closed forms, derivatives of every order that is used, labels, precision, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_lead import ConfigurationError, DifferentiationError
from lightning_lead.objectives import (
    R1,
    R2,
    WGANGP,
    AbstractGradientPenalty,
    AbstractPenalty,
    ApproximateR1,
    ApproximateR2,
    LeCam,
)

PENALTIES = [R1(weight=3.0), WGANGP(weight=3.0)]
ids = [type(penalty).__name__ for penalty in PENALTIES]


def samples(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_of_a_linear_discriminator_it_is_a_function_of_the_weights(shape):
    real, fake, w = samples(7, *shape), samples(7, *shape), samples(*shape).requires_grad_()
    length = w.detach().norm()

    def linear(x: Tensor) -> Tensor:
        return (x * w).flatten(1).sum(1) + 5

    flat, (by_w,) = (value := R1(weight=3.0)(linear, real)), torch.autograd.grad(value, w)
    torch.testing.assert_close(flat.detach(), 1.5 * length**2)
    torch.testing.assert_close(by_w, 3.0 * w.detach())
    steep, (by_w,) = (value := WGANGP(weight=3.0)(linear, real, fake)), torch.autograd.grad(value, w)
    torch.testing.assert_close(steep.detach(), 3.0 * (length - 1) ** 2)
    torch.testing.assert_close(by_w, 6.0 * (length - 1) * w.detach() / length)


def test_of_a_quadratic_discriminator_it_is_the_mean_over_the_points():
    """D = ½xᵀAx has the slope Ax; WGANGP takes points between pairs, with a share of its own for each."""
    real, fake, a = samples(7, 3), samples(7, 3), samples(3, 3)
    a = (a + a.T).requires_grad_()

    def quadratic(x: Tensor) -> Tensor:
        return 0.5 * ((x @ a) * x).sum(1, keepdim=True)

    share = torch.rand(7, 1, generator=generator(), dtype=torch.float64)
    between = share * real + (1 - share) * fake
    expected = {R1: 1.5 * (real @ a).square().sum(1).mean(), WGANGP: 3 * ((between @ a).norm(dim=1) - 1).pow(2).mean()}
    for penalty in PENALTIES:
        value = penalty(quadratic, real, fake, noise=generator())
        torch.testing.assert_close(value, expected[type(penalty)], rtol=1e-12, atol=0)
        # D's own use of A is through x and its transpose alike
        mine, theirs = (torch.autograd.grad(v, a)[0] for v in (value, expected[type(penalty)]))
        torch.testing.assert_close(mine + mine.T, theirs + theirs.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("penalty", PENALTIES, ids=ids)
def test_first_and_second_derivatives_are_those_of_finite_differences(penalty):
    """By weights, reals and fakes; the second derivative of the penalty is the third one of the network."""
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    names = [name for name, _ in network.named_parameters()]

    def value(real: Tensor, fake: Tensor, *weights: Tensor) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        return penalty(lambda x: functional_call(network, state, x), real, fake, noise=generator())

    point = [t.detach().requires_grad_() for t in (samples(3, 2), samples(3, 2), *network.parameters())]
    # the last bias adds to every logit, so no slope depends on it; neither does R1 depend on the fakes
    assert torch.autograd.gradcheck(value, point)
    assert torch.autograd.gradgradcheck(value, point)


@pytest.mark.parametrize("penalty", PENALTIES, ids=ids)
def test_it_is_the_mean_of_the_penalties_of_single_samples(penalty):
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    real, fake, noise = samples(5, 2), samples(5, 2), generator()
    each = [penalty(network, real[i : i + 1], fake[i : i + 1], noise=noise) for i in range(5)]
    whole = penalty(network, real, fake, noise=generator())
    torch.testing.assert_close(whole, torch.stack(each).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("penalty", PENALTIES, ids=ids)
def test_the_label_of_the_real_goes_with_each_point(penalty):
    real, labels, slope = samples(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 3.0, 5.0]).double()

    def conditional(x: Tensor, classes: Tensor) -> Tensor:
        return slope[classes] * x[:, 0]

    value = penalty(conditional, real, samples(9, 2), labels=labels)
    expected = {R1: 1.5 * slope.square().mean(), WGANGP: 3 * (slope - 1).square().mean()}
    torch.testing.assert_close(value, expected[type(penalty)])


@pytest.mark.parametrize(("reals", "fakes"), [(3, 5), (5, 3)])
def test_of_unequal_batches_the_first_pairs_are_taken(reals, fakes):
    real, fake = samples(reals, 2), samples(fakes, 2)
    network, penalty = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double(), WGANGP()
    values = [penalty(network, r, u, noise=generator()) for r, u in ((real, fake), (real[:3], fake[:3]))]
    assert torch.equal(*values)


def test_where_every_unit_is_off_the_derivatives_of_a_length_are_zero_and_not_nan():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    nn.init.constant_(network[0].bias, -9.0)
    real, fake = samples(4, 2), samples(4, 2).requires_grad_()
    value = WGANGP(weight=3.0)(network, real, fake)
    assert value.item() == 3.0  # λ (0 − 1)²
    weights = tuple(network.parameters())
    grads = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
    length = sum(g.square().sum() for g in grads if g is not None)
    second = torch.autograd.grad(length, weights, allow_unused=True)
    assert all((g == 0).all() for g in (*grads, *second) if g is not None)


@pytest.mark.parametrize("penalty", PENALTIES, ids=ids)
def test_it_is_in_float32_where_autocast_is_on(penalty):
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append((x.dtype, (out := super().forward(x)).dtype))
            return out

    network, real, fake = Watched(3, 1), torch.randn(4, 3), torch.randn(4, 3)
    plain = penalty(network, real, fake.bfloat16().float(), noise=generator())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = penalty(network, real, fake.bfloat16(), noise=generator())
    assert torch.equal(plain, mixed)
    assert seen == [(torch.float32, torch.float32)] * 2


@pytest.mark.parametrize("penalty", PENALTIES, ids=ids)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_has_the_same_value_and_no_graph(penalty, mode):
    network, real, fake = (
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)),
        torch.randn(4, 2),
        torch.randn(4, 2),
    )
    expected = penalty(network, real, fake, noise=generator())
    with mode():
        value = penalty(network, real.clone(), fake.clone(), noise=generator())
    assert torch.equal(value, expected)
    assert expected.requires_grad
    assert not value.requires_grad


@pytest.mark.parametrize("kind", [R1, R2, WGANGP, ApproximateR1, ApproximateR2, LeCam])
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), True, "10"])
def test_a_bad_weight_is_refused(kind, weight):
    with pytest.raises(ConfigurationError, match=rf"Cannot .* {kind.__name__}.*weight.*number.*got"):
        kind(weight=weight)


def test_a_penalty_that_cannot_be_taken_is_refused_with_the_reason():
    real, bias = samples(4, 2), nn.Parameter(torch.ones(4))
    for blind in (lambda x: x.detach().sum(1), lambda x: x.detach().sum(1) + bias):
        with pytest.raises(DifferentiationError, match=r"do not depend on its input; let .*got logits of shape"):
            R1()(blind, real)
    with pytest.raises(ConfigurationError, match=r"WGANGP because it looks at fakes.*pass fake="):
        WGANGP()(lambda x: x.sum(1), real)
    for kind in (AbstractPenalty, AbstractGradientPenalty):
        with pytest.raises(TypeError, match="abstract"):
            kind()


@pytest.mark.parametrize("kind", [R1, R2, WGANGP, ApproximateR1, ApproximateR2, LeCam])
@pytest.mark.parametrize("every", [0, -2, 1.5, True, "4"])
def test_a_bad_interval_is_refused(kind, every):
    with pytest.raises(ConfigurationError, match=f"Cannot .* {kind.__name__} because every.*integer"):
        kind(every=every)


@pytest.mark.parametrize("kind", [ApproximateR1, ApproximateR2])
@pytest.mark.parametrize("sigma", [0.0, -0.1, float("nan"), True])
def test_a_bad_step_is_refused(kind, sigma):
    with pytest.raises(ConfigurationError, match=rf"Cannot use {kind.__name__}\(sigma=.*> 0"):
        kind(sigma=sigma)


def test_r2_is_r1_on_the_fakes():
    torch.manual_seed(0)
    network, real, fake = (
        nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double(),
        samples(5, 3),
        samples(7, 3),
    )
    assert torch.equal(R2(weight=3.0)(network, real, fake), R1(weight=3.0)(network, fake[:5]))
    with pytest.raises(ConfigurationError, match=r"R2 because it looks at fakes"):
        R2()(network, real)


@pytest.mark.parametrize(("approximate", "exact"), [(ApproximateR1, R1), (ApproximateR2, R2)])
def test_finite_differences_tend_to_the_penalty_on_the_slope(approximate, exact):
    """The mean over ε of a smooth D: an error of order σ², beside noise that falls with the number of samples."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = samples(4, 3).repeat(20_000, 1)
    wanted = exact(weight=3.0)(network, x[:4], x[:4])
    found = approximate(weight=3.0, sigma=1e-3)(network, x, x)
    assert abs(found / wanted - 1) < 0.02  # 80,000 draws of a χ²: √2/283 = 0.5 %
    coarse = approximate(weight=3.0, sigma=2.0)(network, x, x)
    assert abs(coarse / wanted - 1) > 0.1


def test_lecam_holds_logits_near_the_averages_of_the_others():
    torch.manual_seed(0)
    penalty, network = LeCam(weight=0.5, decay=0.9).double(), nn.Linear(3, 1).double()
    of_reals = of_fakes = 0.0
    for _ in range(3):
        real, fake = samples(5, 3), samples(7, 3)
        r, t = network(real), network(fake)
        of_reals, of_fakes = 0.9 * of_reals + 0.1 * r.mean().item(), 0.9 * of_fakes + 0.1 * t.mean().item()
        expected = 0.5 * ((r - of_fakes).square().mean() + (t - of_reals).square().mean())
        value = penalty(network, real, fake)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-14)
        mine, theirs = (torch.autograd.grad(v, network.weight)[0] for v in (value, expected))
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)
    with pytest.raises(ConfigurationError, match="no fakes|there are none"):
        penalty(network, real)
    with pytest.raises(ConfigurationError, match=r"decay=1.0"):
        LeCam(decay=1.0)


def test_points_and_price_under_the_old_base_warn_and_work():
    with pytest.warns(FutureWarning, match="AbstractGradientPenalty since 0.2"):

        class Old(AbstractPenalty):
            def points(self, real, fake, noise):
                return real

            def price(self, squares):
                return squares

    assert Old()(lambda x: 2 * x.sum(1), torch.zeros(4, 3), torch.zeros(4, 3)).item() == 12.0
    assert Old.of_slopes


def test_an_old_penalty_in_two_levels_works_too():
    class Base(AbstractPenalty):
        def points(self, real, fake, noise):
            return real

    with pytest.warns(FutureWarning, match="AbstractGradientPenalty since 0.2"):

        class Child(Base):
            def price(self, squares):
                return squares

    assert Child()(lambda x: 2 * x.sum(1), torch.zeros(4, 3), torch.zeros(4, 3)).item() == 12.0

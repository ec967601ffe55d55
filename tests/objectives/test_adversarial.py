"""Adversarial losses: values, gradients against autograd of the textbook formula, and the registry."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_lead import ConfigurationError
from lightning_lead.objectives import (
    AdversarialObjective,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    RelativisticAverage,
    RelativisticPairing,
    Wasserstein,
    adversarial_objective,
)

OF_DIRAC_GAN = {"non_saturating": NonSaturating, "minimax": Minimax, "hinge": Hinge, "wasserstein": Wasserstein}
NAMES = OF_DIRAC_GAN | {"least_squares": LeastSquares}
RELATIVISTIC = {"relativistic_pairing": RelativisticPairing, "relativistic_average": RelativisticAverage}


def logits(*shape: int) -> Tensor:
    return (3 * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("name", [*NAMES, *RELATIVISTIC])
def test_names(name: str) -> None:
    objective = adversarial_objective(name)
    assert type(objective) is (NAMES | RELATIVISTIC)[name]
    assert isinstance(objective, AdversarialObjective)
    assert adversarial_objective(objective) is objective


@pytest.mark.parametrize("name", ["non_saturating", "minimax"])
def test_cross_entropy_is_the_textbook_formula(name: str) -> None:
    real, fake = logits(7), logits(5)
    objective = adversarial_objective(name)
    textbook = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    torch.testing.assert_close(objective.discriminator_loss(real, fake), textbook)
    wanted = -fake.sigmoid().log().mean() if name == "non_saturating" else (1 - fake.sigmoid()).log().mean()
    torch.testing.assert_close(objective.generator_loss(fake), wanted)


def test_smoothed_labels_are_cross_entropy_with_that_label() -> None:
    real, fake = logits(7), logits(5)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(real, torch.full_like(real, 0.9)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(NonSaturating(smoothing=0.1).discriminator_loss(real, fake), expected)
    assert torch.equal(NonSaturating(smoothing=0.1).generator_loss(fake), NonSaturating().generator_loss(fake))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan"), True, "0.1"])
def test_a_bad_smoothing_is_refused(smoothing: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"smoothing must be (in \[0, 1\)|a number)"):
        NonSaturating(smoothing=smoothing)


def test_least_squares_is_that_of_the_labels() -> None:
    real, fake = logits(7), logits(5)
    mse = torch.nn.functional.mse_loss
    expected = (mse(real, torch.ones_like(real)) + mse(fake, torch.zeros_like(fake))) / 2
    torch.testing.assert_close(LeastSquares().discriminator_loss(real, fake), expected)
    torch.testing.assert_close(LeastSquares().generator_loss(fake), mse(fake, torch.ones_like(fake)) / 2)


def test_relativistic_losses_are_the_textbook_formulas() -> None:
    real, fake = logits(6), logits(6)
    log = lambda x: x.sigmoid().log()  # noqa: E731
    pairing: Any = RelativisticPairing()
    torch.testing.assert_close(pairing.discriminator_loss(real, fake), -log(real - fake).mean())
    torch.testing.assert_close(pairing.generator_loss(fake, real), -log(fake - real).mean())
    average: Any = RelativisticAverage()
    real, fake = logits(6), logits(4)  # as many are not needed
    (r, t) = real - fake.mean(), fake - real.mean()
    torch.testing.assert_close(average.discriminator_loss(real, fake), -log(r).mean() - log(-t).mean())
    torch.testing.assert_close(average.generator_loss(fake, real), -log(t).mean() - log(-r).mean())


def test_pairs_need_as_many_fakes_as_reals() -> None:
    with pytest.raises(ConfigurationError, match=r"pair fakes with reals.*relativistic_average.*got .*\(6,\).*\(4,\)"):
        RelativisticPairing().discriminator_loss(logits(6), logits(4))


def test_hinge_has_a_margin() -> None:
    real, fake = (torch.tensor([x], requires_grad=True) for x in (1.5, -1.5))
    Hinge().discriminator_loss(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.item() == fake.grad.item() == 0
    assert Hinge().discriminator_loss(-real, -fake).item() == 5.0


@pytest.mark.parametrize("name", NAMES)
def test_zero_sum_means_opposite_gradients_on_the_fakes(name: str) -> None:
    real, fake = logits(6), logits(6)
    objective: Any = adversarial_objective(name)
    (of_generator,) = torch.autograd.grad(objective.generator_loss(fake), fake)
    (of_discriminator,) = torch.autograd.grad(objective.discriminator_loss(real, fake), fake)
    assert torch.equal(of_generator, -of_discriminator) == objective.zero_sum


@pytest.mark.parametrize("name", NAMES)
def test_each_player_pulls_its_own_way(name: str) -> None:
    real, fake = (torch.full((4,), 0.5, requires_grad=True) for _ in range(2))
    objective = adversarial_objective(name)
    assert (torch.autograd.grad(objective.generator_loss(fake), fake)[0] < 0).all()
    of_real, of_fake = torch.autograd.grad(objective.discriminator_loss(real, fake), [real, fake])
    assert (of_real < 0).all()
    assert (of_fake > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_any_shape_gives_a_finite_scalar(name: str) -> None:
    objective = adversarial_objective(name)
    for shape in ((8,), (8, 1), (2, 1, 2, 2)):
        real, fake = 1e4 * torch.ones(shape), -1e4 * torch.ones(shape)
        for sign in (1, -1):  # a discriminator that is right, or wrong, by a wide margin
            losses = objective.generator_loss(sign * fake), objective.discriminator_loss(sign * real, sign * fake)
            assert all(loss.shape == () and loss.isfinite() for loss in losses)


@pytest.mark.parametrize("name", OF_DIRAC_GAN)
def test_dirac_gan_plays_the_same_losses(name: str) -> None:
    from lightning_lead.games import DiracGAN

    game, objective = DiracGAN(objective=name), adversarial_objective(name)
    for x, y in itertools.product((-0.7, 1.3), (0.4, -2.0)):
        point = {"x": (torch.tensor([x], dtype=torch.float64),), "y": (torch.tensor([y], dtype=torch.float64),)}
        losses = game.losses(point)
        real, fake = torch.zeros(1, dtype=torch.float64), torch.tensor([x * y], dtype=torch.float64)
        torch.testing.assert_close(losses["y"], objective.discriminator_loss(real, fake))
        constant = torch.nn.functional.softplus(-real).mean() if name == "minimax" else 0
        torch.testing.assert_close(losses["x"], objective.generator_loss(fake) - constant)


def test_own_objects_are_taken() -> None:
    class Own:
        def generator_loss(self, fake_logits: Tensor) -> Tensor:
            return fake_logits.mean()

        def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
            return real_logits.mean()

    own = Own()
    assert adversarial_objective(own) is own


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("hinges", r"non_saturating, minimax, hinge, wasserstein.*\(got 'hinges'\)"),
        (Hinge, r"pass Hinge\(\)"),
        (3, r"lacks generator_loss.*\(got int\)"),
        (None, r"\(got NoneType\)"),
    ],
)
def test_other_objects_are_refused(objective: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        adversarial_objective(objective)


def test_objectives_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Hinge().margin = 2  # type: ignore[attr-defined]

"""Games whose losses and networks change in mid-run: every direction is that of the losses as they are now.

The same run with derivatives of the losses as a whole, of whose structure nothing is assumed, says what is right.
"""

from __future__ import annotations

import functools

import pytest
import torch
from pairs import some
from tiny import tiny_loader, tiny_trainer
from torch import nn

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead._errors import ConfigurationError, DifferentiationError
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.objectives import R1, R2, WGANGP, LeCam, adversarial_objective

CHANGES_AT, STEPS = 3, 7

FORMS = {
    "opponent": lambda **play: LEADStrategy(2.0, **play),
    "own": lambda **play: LEADStrategy(2.0, form="own", **play),
    "a part": lambda **play: LEADStrategy(2.0, cross_fraction=0.5, **play),
    "difference": lambda **play: LEADStrategy(2.0, cross="difference", **play),
    "extrapolated": lambda **play: LEADStrategy(2.0, cross="extrapolated", **play),
    "auto": lambda **play: LEADStrategy(2.0, cross="auto", check_every=2, **play),
}


class GAN(LeadGANModule):
    """Networks and losses with places where something can be put in."""

    def __init__(self, change, **settings):
        torch.manual_seed(5)
        generator = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Identity(), nn.Linear(6, 2)).double()
        discriminator = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Identity(), nn.Linear(6, 1)).double()
        rates = {"generator_lr": 0.05, "discriminator_lr": 0.05, "optimizer": torch.optim.SGD}
        super().__init__(generator, discriminator, latent_dim=3, **rates, **settings)
        self.change = change
        self.of_generator = self.of_discriminator = None

    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == CHANGES_AT:
            CHANGES[self.change](self)

    def generator_loss(self, fake_logits):
        loss = super().generator_loss(fake_logits)
        return loss if self.of_generator is None else loss + self.of_generator(fake_logits)


class GANWithLoss(GAN):
    """The same with a discriminator's loss of its own, in which reals and fakes might meet."""

    def discriminator_loss(self, real_logits, fake_logits):
        loss = super().discriminator_loss(real_logits, fake_logits)
        return loss if self.of_discriminator is None else loss + self.of_discriminator(real_logits, fake_logits)


class Meet(nn.Module):
    """Samples of a batch meet, without a norm that would be known by its name."""

    def forward(self, x):
        return x + 0.3 * x.mean(0, keepdim=True) * x.square().mean()


class OnStep(nn.Module):
    """A branch on a count of forwards that goes on in both runs alike."""

    def forward(self, x):
        return torch.where(x > 0, x, 0.1 * x) * x.detach().abs().mean().add(1).log()


class MeetingObjective:
    """Losses of the gap between reals and fakes."""

    def generator_loss(self, fake_logits):
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits, fake_logits):
        gap = real_logits.mean() - fake_logits.mean()
        return nn.functional.softplus(-gap) + 0.1 * gap.square()


def keeping(gan):
    """Keep features, and match them in the generator's loss."""
    kept = {}
    gan.discriminator[1].register_forward_hook(lambda layer, inputs, output: kept.update(features=output))
    gan.of_generator = lambda logits: kept["features"].square().mean()


def keeping_for_both(gan):
    """Keep features, and use them in the discriminator's loss."""
    kept = {}
    gan.discriminator[1].register_forward_hook(lambda layer, inputs, output: kept.update(features=output))
    gan.of_discriminator = lambda *_: kept["features"].square().mean()


def keeping_inputs(gan):
    """Keep what a layer is given, in the network itself."""
    gan.discriminator[3].register_forward_pre_hook(lambda layer, inputs: setattr(layer, "kept", inputs[0]))
    gan.of_generator = lambda logits: gan.discriminator[3].kept.abs().mean() * logits.square().mean()


def replaced(gan):
    """Put another forward in the place of the discriminator's, as a monkey patch does."""
    layers = gan.discriminator
    layers.forward = lambda x: layers[3](torch.sin(layers[0](x)))


def set_to(place, make):
    def change(gan):
        getattr(gan, place.split("[")[0])[int(place.split("[")[1][:-1])] = make()

    return change


def assign(**values):
    def change(gan):
        for name, value in values.items():
            setattr(gan, name, value)

    return change


CHANGES = {
    "nothing": lambda gan: None,
    # losses
    "weight decay of G": lambda gan: assign(
        of_generator=lambda _: sum(p.square().sum() for p in gan.generator.parameters())
    )(gan),
    "a decay in D's loss": lambda gan: assign(
        of_discriminator=lambda *_: 0.1 * sum(p.square().sum() for p in gan.discriminator.parameters())
    )(gan),
    "both players' weights in G's loss": lambda gan: assign(
        of_generator=lambda _: gan.generator[0].weight.square().sum() * gan.discriminator[0].weight.square().sum()
    )(gan),
    "both players' weights in D's loss": lambda gan: assign(
        of_discriminator=lambda *_: 0.1 * gan.generator[0].bias.sum() * gan.discriminator[0].weight.square().sum()
    )(gan),
    "matched features": keeping,
    "features in D's loss": keeping_for_both,
    "inputs of a layer in G's loss": keeping_inputs,
    "reals and fakes meet": assign(of_discriminator=lambda real, fake: (real.mean() - fake.mean()).square()),
    "a loss of the wasserstein kind": assign(of_generator=lambda logits: -logits.mean()),
    "another objective": lambda gan: setattr(gan, "objective", adversarial_objective("hinge")),
    "an objective in which samples meet": assign(objective=MeetingObjective()),
    # penalties
    "R1 begins": lambda gan: setattr(gan, "penalty", R1(weight=2.0)),
    "R2 begins": lambda gan: setattr(gan, "penalty", R2(weight=2.0)),
    "WGAN-GP begins": lambda gan: setattr(gan, "penalty", WGANGP(weight=2.0)),
    "LeCam begins": lambda gan: setattr(gan, "penalty", LeCam(weight=2.0)),
    # networks
    "D: tanh for relu": set_to("discriminator[1]", nn.Tanh),
    "D: softplus put in": set_to("discriminator[2]", nn.Softplus),
    "D: batch norm put in": set_to("discriminator[2]", lambda: nn.BatchNorm1d(6, affine=False).double()),
    "D: layer norm put in": set_to("discriminator[2]", lambda: nn.LayerNorm(6, elementwise_affine=False).double()),
    "D: samples meet": set_to("discriminator[2]", Meet),
    "D: another branch": set_to("discriminator[2]", OnStep),
    "D: dropout put in": set_to("discriminator[2]", lambda: nn.Dropout(0.3)),
    "D: another forward": replaced,
    "D: a hook on a layer": lambda gan: gan.discriminator[0].register_forward_hook(lambda m, i, o: o.square()),
    "D: a hook on the network": lambda gan: gan.discriminator.register_forward_hook(lambda m, i, o: torch.sinh(o)),
    "D: another slope": set_to("discriminator[1]", lambda: nn.LeakyReLU(0.3)),
    "D: a clamp": set_to("discriminator[2]", lambda: nn.Hardtanh(-0.2, 0.2)),
    "D: a scaling attribute": set_to("discriminator[2]", lambda: nn.Hardswish()),
    "G: samples meet": set_to("generator[2]", Meet),
    "G: batch norm put in": set_to("generator[2]", lambda: nn.BatchNorm1d(6, affine=False).double()),
    "G: relu for tanh": set_to("generator[1]", nn.ReLU),
    "G: a square": set_to("generator[2]", lambda: nn.SiLU()),
    "augmentation begins": lambda gan: setattr(gan, "augment", Meet()),
    "D: evaluation mode": lambda gan: gan.discriminator.eval(),
}


@functools.cache
def played(form, play, change, with_loss=False, *, general):
    own_loss = change.endswith("D's loss") or change == "reals and fakes meet"
    gan = (GANWithLoss if own_loss or with_loss else GAN)(change, game=FORMS[form](play=play))
    if general:
        gan._find_structure = lambda *_: Structure("the test says so", None)
    torch.manual_seed(1)
    tiny_trainer(STEPS, log_every_n_steps=100).fit(gan, tiny_loader(16, count=112))
    return torch.cat([p.detach().flatten() for p in gan.parameters()])


CASES = [
    (form, play, change, with_loss)
    for change in CHANGES
    for play in ("alternating", "simultaneous")
    for form in FORMS
    for with_loss in (False, True)
    # fakes of a part of the batch have other statistics than those of all of it; which are taken is no fault
    if not (form == "a part" and change in ("G: samples meet", "G: batch norm put in"))
]
SAME = {"nothing", "D: evaluation mode"}


@pytest.mark.parametrize(("form", "play", "change", "with_loss"), some(CASES, 30))
def test_after_a_change_the_directions_are_those_of_the_losses(form, play, change, with_loss, became):
    try:
        expected = played(form, play, change, with_loss, general=True)
    except (ConfigurationError, DifferentiationError) as refusal:
        with pytest.raises(type(refusal)):
            played(form, play, change, with_loss, general=False)
        became("structure that changes in mid-run", "refused")
        return
    found = played(form, play, change, with_loss, general=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    if change not in SAME:
        assert (expected - played(form, play, "nothing", with_loss, general=True)).abs().max() > 1e-5  # it matters
    became("structure that changes in mid-run", "directions of the losses as a whole")

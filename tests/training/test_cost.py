"""What a step costs, in counted FLOPs: no timings."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_lead import LEADStrategy
from lightning_lead.gan import LeadGANModule
from lightning_lead.networks import MLPDiscriminator, MLPGenerator, SNGANDiscriminator, SNGANGenerator

soft = nn.functional.softplus


def hand_written(generator, discriminator, real, z_d, z_g):
    """One alternating step as careful users write it."""
    fake = generator(z_d).detach()
    loss = soft(-discriminator(real)).mean() + soft(discriminator(fake)).mean()
    torch.autograd.grad(loss, list(discriminator.parameters()))
    loss = soft(-discriminator(generator(z_g))).mean()
    torch.autograd.grad(loss, list(generator.parameters()))


class NoModules:
    """Counts by operation alone: following modules would forbid derivatives with respect to what they are handed."""

    parents = frozenset({"Global"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def counted(run):
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        run()
    return counter.get_total_flops()


def step_flops(game, *, networks=tiny_networks, loader=None, **settings):
    """FLOPs of the third game step: by then every displacement is there."""
    gan = LeadGANModule(*networks(), game=game, **settings)
    flops = []
    original = gan.training_step
    gan.training_step = lambda *batch: flops.append(counted(lambda: original(*batch)))
    tiny_trainer(3).fit(gan, loader or tiny_loader(24))
    return flops[2]


def sngan():
    """SNGAN-ResNet32, its full width; the ratio of costs does not depend on the batch, so batches are small."""
    return SNGANGenerator(), SNGANDiscriminator()


def mlp():
    return MLPGenerator(), MLPDiscriminator()


def smooth_mlp():
    """No shortcut for a discriminator that is not piecewise linear."""
    return MLPGenerator(), MLPDiscriminator(activation="softplus")


def images(batch_size):
    return torch.utils.data.DataLoader(torch.rand(3 * batch_size, 3, 32, 32), batch_size)


def points(batch_size):
    return torch.utils.data.DataLoader(torch.rand(3 * batch_size, 2), batch_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("networks", "loader", "settings", "limit"),
    [
        # ratios to Adam at the same sizes; limits just above what cannot be done without (docs/cost.md)
        (mlp, points(8), {}, 1.42),
        (smooth_mlp, points(8), {}, 1.75),
        (sngan, images(1), {}, 1.47),
        (sngan, images(5), {"discriminator_steps": 5, "generator_batch_size": 2}, 1.175),
    ],
    ids=["MLP 2000", "smooth MLP 2000", "SNGAN-ResNet32, n = 1", "SNGAN-ResNet32, n = 5"],
)
def test_the_exact_cross_term_costs_what_its_structure_costs(networks, loader, settings, limit):
    lead, adam = (
        step_flops(game, networks=networks, loader=loader, objective="hinge", **settings)
        for game in (LEADStrategy(1.0), LEADStrategy(0.0))
    )
    assert lead <= limit * adam, f"{lead / adam:.4f}"


def test_alpha_zero_costs_what_a_hand_written_step_costs():
    generator, discriminator = tiny_networks()
    for parameter in discriminator.parameters():
        parameter.requires_grad_(True)
    z = torch.randn(24, 3, dtype=torch.float64)
    by_hand = counted(lambda: hand_written(generator, discriminator, tiny_points(24), z, z))
    assert step_flops(LEADStrategy(0.0)) == by_hand


@pytest.mark.parametrize("cross", ["exact", "difference"])
def test_a_cross_term_is_paid_for(cross):
    plain = step_flops(LEADStrategy(0.0))
    assert plain < step_flops(LEADStrategy(1.0, cross=cross)) < 4 * plain


def test_inner_discriminator_steps_pay_for_no_cross_term():
    """With n discriminator steps only the first one meets a displacement."""
    asked = []

    class Recorded(LeadGANModule):
        def wanted_losses(self, batch, wanted):
            asked.append((batch.discriminator_moves, len(wanted)))
            return super().wanted_losses(batch, wanted)

    tiny_trainer(2).fit(Recorded(*tiny_networks(), discriminator_steps=3), tiny_loader(24))
    second = asked[-4:]
    assert second == [(True, 2), (True, 1), (True, 1), (False, 2)]


@pytest.mark.parametrize(
    ("networks", "loader", "limit"),
    [(sngan, images(1), 1.13), (mlp, points(8), 1.34)],
    ids=["SNGAN-ResNet32", "MLP 2000"],
)
def test_the_difference_with_shared_latents(networks, loader, limit):
    """Adam draws fresh latents, as it is used; the generator's forward pass is what sharing saves."""
    lead, adam = (
        step_flops(game, networks=networks, loader=loader, objective="hinge", shared_latents=shared)
        for game, shared in ((LEADStrategy(cross="difference"), True), (LEADStrategy(0.0), False))
    )
    assert lead <= limit * adam, f"{lead / adam:.4f}"

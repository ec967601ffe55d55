"""What a step costs, in counted FLOPs: no timings."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_networks, tiny_points
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_lead import LEADStrategy
from lightning_lead.gan import LeadGANModule

soft = nn.functional.softplus


def hand_written(generator, discriminator, real, z_d, z_g):
    """One alternating step as careful users write it."""
    fake = generator(z_d).detach()
    loss = soft(-discriminator(real)).mean() + soft(discriminator(fake)).mean()
    torch.autograd.grad(loss, list(discriminator.parameters()))
    loss = soft(-discriminator(generator(z_g))).mean()
    torch.autograd.grad(loss, list(generator.parameters()))


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def step_flops(game):
    """FLOPs of the third game step: by then every displacement is there."""
    from tiny import tiny_loader, tiny_trainer

    gan = LeadGANModule(*tiny_networks(), game=game)
    flops = []
    original = gan.training_step
    gan.training_step = lambda *batch: flops.append(counted(lambda: original(*batch)))
    tiny_trainer(3).fit(gan, tiny_loader(24))
    return flops[2]


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

    from tiny import tiny_loader, tiny_trainer

    tiny_trainer(2).fit(Recorded(*tiny_networks(), discriminator_steps=3), tiny_loader(24))
    second = asked[-4:]
    assert second == [(True, 2), (True, 1), (True, 1), (False, 2)]

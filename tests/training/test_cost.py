"""What a step costs, in counted FLOPs: no timings."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from pairs import pairwise
from tiny import tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lightning_lead import LEADStrategy
from lightning_lead.gan import LeadGANModule
from lightning_lead.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    SNGANDiscriminator,
    SNGANGenerator,
)
from lightning_lead.objectives import R1

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


def step_flops(game, *, networks=tiny_networks, loader=None, log_every_n_steps=50, **settings):
    """FLOPs of the third game step: by then every displacement is there."""
    gan = LeadGANModule(*networks(), game=game, **settings)
    return at_the_third_step(gan, counted, loader or tiny_loader(24), log_every_n_steps=log_every_n_steps)


def at_the_third_step(gan, measure, loader, **settings):
    """What `measure` finds of it; on the steps before, counters would only take time."""
    found, steps, original = [], itertools.count(1), gan.training_step

    def step(*batch):
        if next(steps) < 3:
            original(*batch)
        else:
            found.append(measure(lambda: original(*batch)))

    gan.training_step = step
    tiny_trainer(3, **settings).fit(gan, loader)
    return found[0]


def sngan():
    """SNGAN-ResNet32, a quarter of its width, where ratios of costs are above those of the full width, by up to 0.002.

    They do not depend on the batch, so batches are small.
    """
    return SNGANGenerator(width=64), SNGANDiscriminator(width=32)


def mlp():
    """A quarter of its width, where ratios of costs are below those of the full width, by up to 0.005."""
    return MLPGenerator(width=500), MLPDiscriminator(width=500)


def smooth_mlp():
    """No shortcut for a discriminator that is not piecewise linear."""
    return MLPGenerator(width=500), MLPDiscriminator(width=500, activation="softplus")


def images(batch_size):
    return torch.utils.data.DataLoader(torch.rand(3 * batch_size, 3, 32, 32), batch_size)


def points(batch_size):
    return torch.utils.data.DataLoader(torch.rand(3 * batch_size, 2), batch_size)


@functools.cache
def adam_flops(networks, data, batch_size, **settings):
    """Of Adam without a cross term, which several tests compare with."""
    return step_flops(LEADStrategy(0.0), networks=networks, loader=data(batch_size), objective="hinge", **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("networks", "data", "batch_size", "settings", "limit"),
    [
        # ratios to Adam at the same sizes; limits just above what cannot be done without (docs/cost.md)
        (mlp, points, 2, {}, 1.419),
        (smooth_mlp, points, 2, {}, 1.745),
        (sngan, images, 2, {}, 1.47),
        (sngan, images, 5, {"discriminator_steps": 5, "generator_batch_size": 2}, 1.175),
    ],
    ids=["MLP 500", "smooth MLP 500", "SNGAN-ResNet32, n = 1", "SNGAN-ResNet32, n = 5"],
)
def test_the_exact_cross_term_costs_what_its_structure_costs(networks, data, batch_size, settings, limit):
    adam = adam_flops(networks, data, batch_size, **settings)
    lead = step_flops(LEADStrategy(1.0), networks=networks, loader=data(batch_size), objective="hinge", **settings)
    assert lead <= limit * adam, f"{lead / adam:.4f}"


def narrow_mlp():
    """Narrow, as the two below, because what is compared here does not depend on the width."""
    return MLPGenerator(width=16), MLPDiscriminator(width=16)


def narrow_sngan():
    return SNGANGenerator(width=4), SNGANDiscriminator(width=4)


def dcgan():
    return DCGANGenerator(latent_dim=4, width=2), DCGANDiscriminator(width=2)


@pytest.mark.parametrize(
    ("networks", "loader", "settings"),
    [
        (narrow_mlp, points(8), {}),
        (narrow_mlp, points(8), {"penalty": R1(weight=1.0), "accumulate": 2}),
        (dcgan, torch.utils.data.DataLoader(torch.rand(24, 1, 8, 8), 8), {}),
        (narrow_sngan, images(2), {}),
        (narrow_sngan, images(4), {"discriminator_steps": 2, "generator_batch_size": 1}),
    ],
    ids=["MLP", "MLP, R1 and accumulation", "DCGAN", "SNGAN-ResNet32", "SNGAN-ResNet32, n = 2"],
)
def test_the_extrapolated_form_costs_what_adam_costs(networks, loader, settings):
    """On a step that is logged, too; 0.5 % are left for elementwise work, which this counter does not count."""
    ahead, adam = (
        step_flops(game, networks=networks, loader=loader, objective="hinge", log_every_n_steps=every, **settings)
        for game, every in ((LEADStrategy(cross="extrapolated"), 1), (LEADStrategy(0.0), 50))
    )
    assert ahead <= 1.005 * adam, f"{ahead / adam:.4f}"


def test_in_simultaneous_play_the_extrapolated_form_makes_fakes_for_each_player():
    """They come of two generators, so it costs what alternating play costs."""
    ahead, adam = (
        step_flops(game, networks=narrow_mlp, loader=points(8), objective="hinge")
        for game in (LEADStrategy(cross="extrapolated", play="simultaneous"), LEADStrategy(0.0))
    )
    assert ahead <= 1.005 * adam, f"{ahead / adam:.4f}"


@pytest.mark.parametrize(
    ("game", "limit"),
    [(LEADStrategy(cross_fraction=0.25), 1.21), (LEADStrategy(cross="difference", cross_fraction=0.25), 1.18)],
    ids=["exact", "difference"],
)
def test_a_cross_term_on_a_quarter_of_the_batch(game, limit):
    adam = adam_flops(sngan, images, 4)
    lead = step_flops(game, networks=sngan, loader=images(4), objective="hinge")
    assert lead <= limit * adam, f"{lead / adam:.4f}"


@pytest.mark.parametrize(
    ("game", "limit"), [({"coupling": 0.0}, 0.79), ({"cross": "difference"}, 1.16)], ids=["Adam", "difference"]
)
def test_simultaneous_play_makes_its_fakes_once_for_both_players(game, limit):
    """Relative to alternating Adam, which makes them twice."""
    adam = adam_flops(sngan, images, 1)
    joint = step_flops(LEADStrategy(**game, play="simultaneous"), networks=sngan, loader=images(1), objective="hinge")
    assert joint <= limit * adam, f"{joint / adam:.4f}"


class HostReads(TorchDispatchMode):
    """Counts the operations by which `item`, a condition or a boolean index makes the host wait for a device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


SETTINGS = [{}, {"form": "own"}, {"cross": "difference"}, {"cross_fraction": 0.5}, {"cross": "extrapolated"}]
READS = [(None, 0), (10, 1)]  # nobody looks; finite or not


@pytest.mark.parametrize(("settings", "reads", "every"), pairwise(SETTINGS, READS, [1, 50]))
def test_no_value_reaches_the_host_between_an_optimizer_s_steps(settings, reads, every):
    """Directions, norms and cosines; an optimizer may do as it likes.

    Whether a direction is finite decides if the optimizer steps at all: one value per turn, unless nobody looks.
    """
    skip_limit, expected = reads
    game = LEADStrategy(**settings, skip_limit=skip_limit)
    gan = LeadGANModule(DCGANGenerator(latent_dim=4, width=2), DCGANDiscriminator(width=2), game=game, clip=1.0)
    counts = []
    play = game.play_turn

    def watched(*arguments):
        with HostReads() as reads:
            seen = play(*arguments)
        counts.append(reads.count)
        return seen

    game.play_turn = watched
    loader = torch.utils.data.DataLoader(torch.randn(32, 1, 8, 8), 8)
    tiny_trainer(3, log_every_n_steps=every).fit(gan, loader)
    assert counts == [expected] * 6
    with HostReads() as reads:
        torch.ones(()).item()
    assert reads.count == 1


def peak_of_a_step(game, networks, loader, **settings):
    """Bytes at the highest point of the third game step, above what was held before it, by torch's profiler."""

    def peak(step):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
            step()
        events = sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))

    return at_the_third_step(LeadGANModule(*networks(), game=game, **settings), peak, loader)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("networks", "loader", "limit"),
    [
        (sngan, images(4), 1.2),
        (mlp, points(256), 1.1),
    ],
    ids=["SNGAN-ResNet32", "MLP 500"],
)
def test_exact_lead_needs_little_more_memory_than_adam(networks, loader, limit):
    """Activations and temporaries, besides one copy of the parameters for the displacement."""
    lead, adam = (
        peak_of_a_step(game, networks, loader, objective="hinge") for game in (LEADStrategy(1.0), LEADStrategy(0.0))
    )
    parameters = sum(p.numel() * p.element_size() for network in networks() for p in network.parameters())
    assert adam < lead <= limit * adam + parameters, f"{lead / adam:.3f}, or {(lead - parameters) / adam:.3f}"


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
    assert step_flops(LEADStrategy(1.0, cross="extrapolated")) == plain


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
    ("networks", "data", "batch_size", "limit"),
    [(sngan, images, 1, 1.13), (mlp, points, 2, 1.336)],
    ids=["SNGAN-ResNet32", "MLP 500"],
)
def test_the_difference_with_shared_latents(networks, data, batch_size, limit):
    """Adam draws fresh latents, as it is used; the generator's forward pass is what sharing saves."""
    adam = adam_flops(networks, data, batch_size)
    lead = step_flops(
        LEADStrategy(cross="difference"),
        networks=networks,
        loader=data(batch_size),
        objective="hinge",
        shared_latents=True,
    )
    assert lead <= limit * adam, f"{lead / adam:.4f}"

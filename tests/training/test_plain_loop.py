"""A plain loop over the engine moves the weights as a Trainer does, and examples/plain_loop.py is that loop."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny import tiny_networks, tiny_points, tiny_trainer

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead.gan import GANProblem

FILE = Path(__file__).parents[2] / "examples" / "plain_loop.py"


@pytest.fixture(scope="module")
def plain_loop():
    spec = importlib.util.spec_from_file_location("plain_loop", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cross", ["extrapolated", "exact", "difference"])
def test_the_weights_are_those_of_the_trainer(plain_loop, cross):
    points = tiny_points(96)
    gan = LeadGANModule(*tiny_networks(), game=LEADStrategy(0.7, cross=cross), generator_lr=0.01, discriminator_lr=0.01)
    start = [p.detach().clone() for p in gan.parameters()]
    trainer = tiny_trainer(4)
    trainer.fit(gan, torch.utils.data.DataLoader(points, 24))

    problem = GANProblem(*tiny_networks())
    parameters = [*problem.discriminator.parameters(), *problem.generator.parameters()]
    adam = torch.optim.Adam(parameters, lr=0.01, betas=(0.0, 0.9))
    plain_loop.train(problem, points.split(24), adam, LEADStrategy(0.7, cross=cross), seed=gan._noise_seed)
    ends = [*problem.generator.parameters(), *problem.discriminator.parameters()]
    for here, there, before in zip(ends, gan.parameters(), start, strict=True):
        assert (here - there).abs().max() < 1e-12
        assert (here - before).abs().max() > 1e-3
    other = GANProblem(*tiny_networks())
    adam = torch.optim.Adam(other.module.parameters(), lr=0.01, betas=(0.0, 0.9))
    plain_loop.train(other, points.split(24), adam, LEADStrategy(0.0), seed=gan._noise_seed)  # the control
    pairs = zip(other.generator.parameters(), gan.generator.parameters(), strict=True)
    assert any((here - there).abs().max() > 1e-3 for here, there in pairs)

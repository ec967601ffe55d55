"""A cross term on a fraction of the batch: unbiased, cheaper, and the same by structure and as a whole."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_gan, tiny_loader, tiny_points, tiny_trainer
from torch import nn

import lightning_lead.gan._chain_losses
from lightning_lead import ConfigurationError, LeadGANModule, LeadModule, LEADStrategy
from lightning_lead.calculus import CrossTerm, GameOracle
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.networks import MLPDiscriminator, MLPGenerator, SNGANDiscriminator, SNGANGenerator

FORMS = ["opponent", "own", "difference"]
STRUCTURES = {
    "general": Structure("the test says so", None),
    "dual numbers": Structure(None, "the test says so"),
    "piecewise linear": Structure(None, None),
}


def strategy(form, fraction, **settings):
    cross = {"cross": "difference"} if form == "difference" else {"form": form}
    return LEADStrategy(0.7, cross_fraction=fraction, **cross, **settings)


def sample_wise_networks():
    torch.manual_seed(1)
    return MLPGenerator(latent_dim=3, width=8).double(), MLPDiscriminator(width=8).double()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_the_mean_over_disjoint_parts_is_the_cross_term_of_the_whole(player, form, structure):
    gan = LeadGANModule(*sample_wise_networks(), game=strategy(form, 0.25))
    gan.trainer, gan._structure = tiny_trainer(1), STRUCTURES[structure]
    live = {name: list(parameters) for name, parameters in gan.players().items()}
    torch.manual_seed(2)
    turn = gan.game_turns([tiny_points(12)])[player == "generator"]
    (batch,) = turn.micro_batches
    other = live["generator" if player == "discriminator" else "discriminator"]
    displacement = tuple(0.1 * torch.randn_like(p) for p in other)

    def direction(fraction, shift=0):
        rolled = batch._replace(real=batch.real.roll(-shift, 0), latents=batch.latents.roll(-shift, 0))
        oracle = gan._oracle(turn._replace(micro_batches=[rolled]), live, 7)
        return oracle.gradient(player, cross=CrossTerm(0.7, displacement, form, fraction))

    whole = direction(1.0)
    parts = [direction(0.25, shift) for shift in (0, 3, 6, 9)]
    for index, mine in enumerate(whole):
        assert (torch.stack([part[index] for part in parts]).mean(0) - mine).abs().max() < 1e-12
    # one part alone is an estimate, not the term itself
    assert max((a - b).abs().max() for a, b in zip(parts[0], whole, strict=True)) > 1e-6


def trained(structure, form, networks=sample_wise_networks, loader=None, **settings):
    class Fixed(LeadGANModule):
        def _find_structure(self, *_):
            return STRUCTURES[structure]

    play = settings.pop("play", "alternating")
    gan = Fixed(
        *networks(),
        game=strategy(form, 0.4, play=play),
        optimizer=torch.optim.SGD,
        generator_lr=0.05,
        discriminator_lr=0.05,
        **settings,
    )
    torch.manual_seed(2)
    tiny_trainer(3).fit(gan, loader or tiny_loader(24))
    return gan.state_dict()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"play": "simultaneous"}, {"discriminator_steps": 3}, {"accumulate": 2}, {"generator_batch_size": 10}],
    ids=str,
)
def test_every_way_gives_the_same_weights(form, settings):
    states = [trained(structure, form, **settings) for structure in STRUCTURES]
    for other in states[1:]:
        assert max(float((states[0][key] - other[key]).abs().max()) for key in other) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_spectral_norm_uses_the_same_singular_vectors_in_the_part(form):
    def networks():
        torch.manual_seed(1)
        generator = SNGANGenerator(latent_dim=4, width=4, normalization="none")
        generator.stem, generator.side = nn.Linear(4, 4), 1  # images of 8×8
        return generator.double(), SNGANDiscriminator(width=4).double()

    images = torch.randn(15, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    states = [
        trained(structure, form, networks, torch.utils.data.DataLoader(images, 5), objective="hinge")
        for structure in STRUCTURES
    ]
    for other in states[1:]:
        assert max(float((states[0][key] - other[key]).abs().max()) for key in other) < 1e-12


SIZES: list[int] = []  # not in the module, whose state must not move in a loss that is evaluated again


class Regression(LeadModule):
    """A network against a perturbation of its weights, on a batch that is a mapping."""

    def __init__(self, game):
        super().__init__(game=game, optimizer=torch.optim.SGD, learning_rates=0.1)
        torch.manual_seed(0)
        self.x, self.y = (nn.Parameter(torch.randn(2, dtype=torch.float64)) for _ in range(2))

    def players(self):
        return {"x": [self.x], "y": [self.y]}

    def player_losses(self, batch):
        SIZES.append(len(batch["points"]))
        f = ((batch["points"] @ (self.x + self.y)).tanh() * batch["weights"]).mean() - self.y.square().sum()
        return {"x": f, "y": -f}


def test_the_losses_of_any_two_players_are_evaluated_on_a_part():
    module = Regression(strategy("opponent", 0.25))
    rows = [{"points": p, "weights": torch.ones((), dtype=torch.float64)} for p in tiny_points(24)]
    tiny_trainer(2).fit(module, torch.utils.data.DataLoader(rows, 12))
    assert SIZES[-4:] == [12, 3, 12, 3]


def test_a_single_sample_is_enough(monkeypatch):
    gan = tiny_gan(game=strategy("opponent", 0.01))
    seen, part = [], lightning_lead.gan._chain_losses.GANLosses.part
    monkeypatch.setattr(
        lightning_lead.gan._chain_losses.GANLosses, "part", lambda *a: seen.append(part(*a)) or seen[-1]
    )
    tiny_trainer(2).fit(gan, tiny_loader(24))
    assert seen
    assert all(len(few._batch.latents) == len(few._batch.real) == 1 for few in seen)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan"), "half", True])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigurationError, match=r"cross_fraction.*(\(0, 1\]|a number)"):
        LEADStrategy(cross_fraction=fraction)


def test_losses_that_cannot_be_divided_are_refused():
    point = {"x": (torch.ones(1),), "y": (torch.ones(1),)}

    def losses(point, wanted, *, replay):
        f = (point["x"][0] * point["y"][0]).sum()
        return {"x": f, "y": -f}

    with pytest.raises(RuntimeError, match="part of it"):
        GameOracle(point, [losses]).gradient("x", cross=CrossTerm(1.0, (torch.ones(1),), "own", 0.5))

"""Networks, losses, optimizers and batches that no game can be played with: refused by name, and nothing is trained."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from pairs import some
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_lead import LeadGANModule, LeadMixin, LEADStrategy
from lightning_lead._errors import ConfigurationError, DifferentiationError

GAMES = {
    "exact": lambda: LEADStrategy(1.0),
    "extrapolated": lambda: LEADStrategy(cross="extrapolated"),
    "plain": lambda: "AlternatingGDA",
    "ExtraAdam": lambda: "ExtraAdam",
}


class Changed(nn.Module):
    """A network whose output is changed."""

    latent_dim = 3

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x):
        return self.change(self.network(x))


OUTPUTS = {
    "a mapping": lambda out: {"logits": out},
    "a list": lambda out: [out],
    "nothing": lambda out: None,
    "an empty tuple": lambda out: (),
    "a tuple of texts": lambda out: ("logits", out),
    "a mean": lambda out: out.mean(),
    "a mean with a dimension": lambda out: out.mean(0, keepdim=True),
    "some samples": lambda out: out[: len(out) - 1],
    "no sample": lambda out: out[:0],
    "integers": lambda out: out.long(),
    "a number": lambda out: 1.0,
}


def gan_with(role, change):
    def make(game):
        networks = dict(zip(("generator", "discriminator"), tiny_networks(), strict=True))
        networks[role] = Changed(networks[role], change)
        return LeadGANModule(**networks, game=game)

    return make


class Table(LeadMixin, pl.LightningModule):
    """A player that is a table of numbers, of which each batch takes a few."""

    def __init__(self, game):
        super().__init__(game=game)
        self.table, self.y = nn.Embedding(5, 2, sparse=True), nn.Parameter(torch.ones(2))

    def players(self):
        return {"table": [self.table.weight], "y": [self.y]}

    def player_losses(self, batch):
        f = (self.table(torch.tensor([1, 3])) * self.y).mean()
        return {"table": f, "y": -f}

    def configure_optimizers(self):
        return [torch.optim.SGD([self.table.weight], 0.1), torch.optim.SGD([self.y], 0.1)]


class Batches(IterableDataset):
    """Batches of points, the second without samples."""

    def __iter__(self):
        for size in (8, 0, 8):
            yield torch.zeros(size, 2, dtype=torch.float64)


def optimized_by(optimizer):
    return lambda game: tiny_gan(game=game, optimizer=optimizer)


MODULES = {
    **{f"D returns {what}": (gan_with("discriminator", change), "returns") for what, change in OUTPUTS.items()},
    **{f"G returns {what}": (gan_with("generator", change), "generator returns") for what, change in OUTPUTS.items()},
    "LBFGS": (optimized_by(torch.optim.LBFGS), "optimizer"),
    "SparseAdam": (optimized_by(torch.optim.SparseAdam), "SparseAdam"),
    "maximize": (optimized_by(lambda groups: torch.optim.Adam(groups, maximize=True)), "maximize"),
    "no optimizer": (optimized_by(lambda groups: None), "optimizer"),
    "sparse gradients": (Table, "sparse"),
    "an empty batch": (lambda game: tiny_gan(game=game), "empty"),
}


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.:UserWarning")
@pytest.mark.parametrize(("what", "game"), some(((what, game) for game in GAMES for what in MODULES), 60))
def test_what_no_game_can_be_played_with_is_refused_by_name(what, game, became):
    make, named = MODULES[what]
    module = make(GAMES[game]())
    before = [p.detach().clone() for p in module.parameters()]
    loader = DataLoader(Batches(), batch_size=None) if what == "an empty batch" else tiny_loader(24)
    with pytest.raises((ConfigurationError, DifferentiationError), match=f"Cannot .*{named}"):
        tiny_trainer(3).fit(module, loader)
    if what != "an empty batch":  # which is the second one
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    became("module that cannot be played", "refused by name")


@pytest.mark.parametrize("count", [2, 48])
def test_patches_and_packed_samples_are_no_fault(count):
    """PatchGAN has several logits per sample; PacGAN has one for several samples."""
    if count > 24:
        change = lambda out: torch.cat([out, out.square()])  # noqa: E731
    else:
        change = lambda out: out.reshape(count, -1).mean(1)  # noqa: E731
    module = gan_with("discriminator", change)(LEADStrategy(1.0))
    tiny_trainer(2).fit(module, tiny_loader(24))
    assert module.global_step == 2

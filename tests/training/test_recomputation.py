"""Buffers move as often with activation checkpointing as without, whatever is differentiated."""

from __future__ import annotations

import functools

import pytest
import pytorch_lightning as pl
import torch
from pairs import pairwise
from tiny import tiny_loader, tiny_trainer
from torch import nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from lightning_lead import AdversarialModule, LeadGANModule, LeadMixin, LEADStrategy
from lightning_lead._errors import HigherDerivativeError

GAMES = {
    "plain": lambda: "AlternatingGDA",
    "simultaneous": lambda: "SimultaneousGDA",
    "exact": lambda: LEADStrategy(1.0),
    "own": lambda: LEADStrategy(1.0, form="own"),
    "difference": lambda: LEADStrategy(1.0, cross="difference"),
    "extrapolated": lambda: LEADStrategy(1.0, cross="extrapolated"),
    "ExtraAdam": lambda: "ExtraAdam",
}
SECOND_ORDER = {"exact", "own"}


class Part(nn.Sequential):
    """A part with a batch norm; its activations are forgotten by one of torch's two ways, or kept."""

    def __init__(self, kind):
        super().__init__(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.kind = kind

    def forward(self, x):
        if self.kind is None:
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=self.kind == "reentrant")


class Mixed(LeadMixin, pl.LightningModule):
    def __init__(self, generator, discriminator, game):
        super().__init__(game=game)
        self.generator, self.discriminator = generator, discriminator

    def players(self):
        return {"discriminator": self.discriminator.parameters(), "generator": self.generator.parameters()}

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.05) for part in (self.discriminator, self.generator)]

    def fakes(self, batch):
        return self.generator(torch.randn(len(batch[0]), 3, dtype=torch.double))

    def discriminator_loss(self, batch):
        real, fake = self.discriminator(batch[0]), self.discriminator(self.fakes(batch))
        return softplus(-real).mean() + softplus(fake).mean()

    def generator_loss(self, batch):
        return softplus(-self.discriminator(self.fakes(batch))).mean()


class Translating(AdversarialModule):
    def unpack_batch(self, batch):
        return batch[0], batch[0]

    def forward(self, x):
        return self.generator(torch.cat([x, x[:, :1]], dim=1))


def module_of(kind_of_module, kind, game):
    torch.manual_seed(5)
    generator = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), Part(kind), nn.Linear(6, 2)).double()
    discriminator = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), Part(kind), nn.Linear(6, 1)).double()
    if kind_of_module is Mixed:
        return Mixed(generator, discriminator, game)
    settings = {"game": game, "optimizer": torch.optim.SGD, "generator_lr": 0.05, "discriminator_lr": 0.05}
    if kind_of_module is Translating:
        return Translating(generator, {"one": discriminator}, **settings)
    return LeadGANModule(generator, discriminator, latent_dim=3, **settings)


@functools.cache
def buffers(kind_of_module, kind, game):
    torch.manual_seed(1)
    module = module_of(kind_of_module, kind, GAMES[game]())
    tiny_trainer(4, log_every_n_steps=3).fit(module, tiny_loader(24))
    assert not any(layer._forward_pre_hooks for layer in module.modules()) or kind is not None
    return dict(module.named_buffers())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize(
    ("kind_of_module", "kind", "game"),
    pairwise([LeadGANModule, Mixed, Translating], ["reentrant", "non-reentrant"], GAMES),
)
def test_buffers_move_as_often_as_without(kind_of_module, kind, game):
    if kind == "reentrant" and game in SECOND_ORDER:
        with pytest.raises(HigherDerivativeError, match="reentrant"):
            buffers(kind_of_module, kind, game)
        return
    expected, found = buffers(kind_of_module, None, game), buffers(kind_of_module, kind, game)
    assert expected.keys() == found.keys()
    for name, buffer in expected.items():
        torch.testing.assert_close(found[name], buffer, rtol=0, atol=1e-12, msg=name)

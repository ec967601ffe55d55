"""A player that is set anew for each batch, as the perturbation in adversarial training."""

from __future__ import annotations

from inspect import isabstract

import pytest
import torch
from pytorch_lightning import LightningModule
from tiny import tiny_trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_lead import ConfigurationError, GameStrategy, LeadMixin, LEADStrategy, rules
from lightning_lead.rules import AbstractGameRule, GradientPlay

LR, COUPLING, START = 0.1, 0.6, 0.5
BATCHES = torch.tensor([1.0, -2.0, 0.5, 1.5, 3.0], dtype=torch.float64)


class Attacked(LeadMixin, LightningModule):
    """w against a perturbation δ of each batch b: L_w = b·w·δ + w²/2, L_δ = −b·w·δ."""

    def __init__(self, game, *, forgets=True, momentum=0.0):
        super().__init__(game=game)
        self.w, self.delta = (nn.Parameter(torch.ones((), dtype=torch.float64)) for _ in range(2))
        self.forgets, self.momentum = forgets, momentum

    def players(self):
        return {"delta": [self.delta], "w": [self.w]}

    def delta_loss(self, batch):
        return -batch.mean() * self.w * self.delta

    def w_loss(self, batch):
        return batch.mean() * self.w * self.delta + self.w.square() / 2

    def configure_optimizers(self):
        momenta = {self.w: 0.0, self.delta: self.momentum}
        return [torch.optim.SGD([p], lr=LR, momentum=momentum) for p, momentum in momenta.items()]

    def on_train_batch_start(self, batch, batch_idx):
        with torch.no_grad():
            self.delta.fill_(START)
        if self.forgets:
            self.forget_player("delta")


def fitted(*args, **settings):
    module = Attacked(*args, **settings)
    tiny_trainer(len(BATCHES)).fit(module, DataLoader(BATCHES, 1))
    return float(module.w.detach())


def by_hand(coupling):
    w, moved = 1.0, 0.0
    for b in BATCHES.tolist():
        step = -LR * (-b * w - coupling * b * moved)  # c_δ = −∂_δ(∂_w L_w · Δw) = −b·Δw
        moved = -LR * (b * (START + step) + w + coupling * b * step)  # c_w = −∂_w(∂_δ L_δ · Δδ) = b·Δδ
        w += moved
    return w


@pytest.mark.parametrize("momentum", [0.0, 0.9], ids=["sgd", "its own momentum"])
@pytest.mark.parametrize("coupling", [0.0, COUPLING])
def test_its_displacement_is_that_of_its_batch(coupling, momentum):
    assert fitted(LEADStrategy(coupling), momentum=momentum) == pytest.approx(by_hand(coupling), abs=1e-14)


def test_without_it_the_jump_to_new_values_would_be_a_move():
    assert abs(fitted(LEADStrategy(COUPLING), forgets=False) - by_hand(COUPLING)) > 1e-3
    assert abs(fitted(GradientPlay(), forgets=False, momentum=0.9) - by_hand(0.0)) > 1e-3


CLASSES = [value for name in rules.__all__ if isinstance(value := getattr(rules, name), type)]
EVERY = [rule for c in CLASSES if issubclass(c, AbstractGameRule) and not isabstract(c) for rule in c.variants()]


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: repr(rule)[:60])
@pytest.mark.filterwarnings("ignore:.*relative residual.*:UserWarning")
def test_a_rule_goes_on_where_one_player_was_forgotten(rule):
    class ZeroSum(Attacked):
        def w_loss(self, batch):
            return -self.delta_loss(batch)

    module = ZeroSum(GameStrategy(rule))
    trainer = tiny_trainer(len(BATCHES))
    trainer.fit(module, DataLoader(BATCHES, 1))
    assert trainer.global_step == len(BATCHES)
    assert torch.isfinite(module.w)


def test_a_stranger_is_refused():
    module = Attacked(GradientPlay())
    module.on_train_batch_start = lambda *_: module.forget_player("epsilon")
    with pytest.raises(ConfigurationError, match=r"'epsilon' because it is no player; choose one of \['delta', 'w'\]"):
        tiny_trainer(1).fit(module, DataLoader(BATCHES, 1))

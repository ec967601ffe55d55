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
from lightning_lead._checks import is_class
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


CLASSES = [value for name in rules.__all__ if is_class(value := getattr(rules, name))]
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


@pytest.mark.parametrize("name", ["ACGD(tolerance=1e-13)", "NegativeAdam", "NuPI", "OptimisticGradient"])
def test_a_player_that_begins_the_same_moves_the_same_in_each_batch(name):
    """Its move is a function of its batch and of w alone, which stays."""

    class Still(Attacked):
        def configure_optimizers(self):
            return torch.optim.SGD([{"params": [self.delta], "lr": LR}, {"params": [self.w], "lr": 0.0}])

        def w_loss(self, batch):
            return -self.delta_loss(batch)

        def on_game_step_end(self, batch):
            moves.append(float(self.delta.detach()) - START)

    moves = []
    tiny_trainer(5).fit(Still(name), DataLoader(torch.ones(5, dtype=torch.float64), 1))
    assert moves == pytest.approx([moves[0]] * 5, abs=1e-12)
    assert moves[0] != 0


class Remembering(GradientPlay):
    """States of the forms that rules of one's own may have."""

    def init(self, point):
        return {"delta": 0, "w": 0, "pair": ({"delta": 0, "w": 0},)}

    def direction(self, oracle, players, state):
        directions, _ = super().direction(oracle, players, state)
        seen = {name: state[name] + (name in players) for name in ("delta", "w")}
        return directions, seen | {"pair": (dict(seen),)}


def test_a_state_of_any_form_forgets_the_player_alone():
    rule = Remembering()
    state = {"delta": 3, "w": 4, "pair": ({"delta": 3, "w": 4},)}
    assert rule.forget(state, "delta", {}) == {"delta": 0, "w": 4, "pair": ({"delta": 0, "w": 4},)}


@pytest.mark.parametrize("hook", ["on_before_player_step", "delta_loss"])
def test_in_the_middle_of_a_game_step_it_is_refused(hook):
    module = Attacked(GradientPlay())
    setattr(module, hook, lambda *_: module.forget_player("delta"))
    with pytest.raises(ConfigurationError, match="in the middle of a game step"):
        tiny_trainer(1).fit(module, DataLoader(BATCHES, 1))


def test_a_stranger_is_refused():
    module = Attacked(GradientPlay())
    module.on_train_batch_start = lambda *_: module.forget_player("epsilon")
    with pytest.raises(ConfigurationError, match=r"'epsilon' because it is no player; choose one of \['delta', 'w'\]"):
        tiny_trainer(1).fit(module, DataLoader(BATCHES, 1))

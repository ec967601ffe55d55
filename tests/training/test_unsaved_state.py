"""State of a module that is in no checkpoint is named when one is saved."""

from __future__ import annotations

import random
import warnings
from collections import deque

import pytest
import torch
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_trainer
from torch import nn

from lightning_lead import LeadGANModule


class Keeps(LeadGANModule):
    """Moves what a test has put into `kept`, in each loss of the discriminator."""

    def __init__(self, kept, move, **settings):
        super().__init__(*tiny_networks(batch_norm=True), game="AlternatingGDA", **settings)
        self.kept, self.move = kept, move

    def discriminator_loss(self, real_logits, fake_logits):
        self.move(self)
        return super().discriminator_loss(real_logits, fake_logits)


def count(gan):
    gan.kept += 1


def save(gan, file, steps=3):
    trainer = tiny_trainer(steps)
    trainer.fit(gan, tiny_loader(32))
    trainer.save_checkpoint(file, weights_only=False)
    trainer.save_checkpoint(file, weights_only=False)


@pytest.mark.parametrize(
    ("kept", "move"),
    [
        (0, count),
        (1.0, count),
        ([], lambda gan: gan.kept.append(torch.ones(2))),
        (deque(maxlen=2), lambda gan: gan.kept.append(0.5 * len(gan.kept) + random.random())),
        ({"mean": torch.zeros(2)}, lambda gan: gan.kept["mean"].add_(1.0)),
        (torch.zeros(2), count),
        (None, lambda gan: setattr(gan, "kept", torch.ones(2))),
        (random.Random(1), lambda gan: gan.kept.random()),
        (torch.Generator(), lambda gan: torch.rand(1, generator=gan.kept)),
    ],
    ids=["counter", "float", "pool", "deque", "dict", "tensor", "late", "random", "generator"],
)
def test_what_moves_in_a_loss_is_named_once(kept, move, tmp_path):
    with pytest.warns(UserWarning, match="kept moved in training and will not be in the checkpoint") as found:
        save(Keeps(kept, move), tmp_path / "a.ckpt")
    assert sum("moved in training" in str(w.message) for w in found) == 1


class Counts(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class Says(Counts):
    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_a_counter_in_a_layer_is_named_and_one_that_the_layer_saves_is_not(tmp_path):
    for layer, named in ((Counts(), True), (Says(), False)):
        gan = tiny_gan(game="AlternatingGDA")
        gan.discriminator.append(layer)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            save(gan, tmp_path / "a.ckpt")
        assert any("discriminator.3.calls moved" in str(w.message) for w in found) is named


def test_buffers_and_what_the_module_saves_itself_are_not_named(tmp_path):
    class Saves(Keeps):
        def on_save_checkpoint(self, checkpoint):
            super().on_save_checkpoint(checkpoint)
            checkpoint["kept"] = self.kept

    save(Saves(0, count), tmp_path / "a.ckpt")  # a warning would be an error

    class Registers(Keeps):
        def __init__(self):
            super().__init__(None, lambda gan: gan.seen.add_(1))
            self.register_buffer("seen", torch.zeros(()))

    save(Registers(), tmp_path / "a.ckpt")

"""What losses and hooks draw from Python's and numpy's generators goes on after a resume where it stood."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from pairs import pairwise
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny import tiny_loader, tiny_networks, tiny_trainer

from lightning_lead import LeadGANModule, LEADStrategy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*moved in training:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
]

GAMES = {
    "exact": lambda: LEADStrategy(1.0),
    "extrapolated": lambda: LEADStrategy(cross="extrapolated"),
    "plain": lambda: "AlternatingGDA",
}
DRAWS = {
    "numpy": lambda: 0.1 * np.random.randn(),
    "a half of numpy's pair": lambda: 0.1 * np.random.standard_normal(3)[0],
    "python": lambda: random.gauss(0, 0.1),
    "nothing": lambda: 0.0,
}


class Noisy(LeadGANModule):
    """Noise on the reals, in a loss, and in a hook."""

    draws, where = "nothing", ""

    def noise(self, where):
        return DRAWS[self.draws]() if self.where == where else 0.0

    def on_train_batch_start(self, batch, batch_idx):
        self.shift = self.noise("hook")

    def unpack_batch(self, batch):
        real, labels = super().unpack_batch(batch)
        return real + self.noise("unpack_batch") + self.shift, labels

    def generator_loss(self, fake_logits):
        return super().generator_loss(fake_logits) * (1 + self.noise("loss"))

    def on_before_player_step(self, player):
        if self.saves_in_turn_of == (self.global_step, player):
            self.trainer.save_checkpoint(self.path)

    saves_in_turn_of = path = None


def trained(game, draws, where, steps, *, seed, resume=None, **saves):
    torch.manual_seed(0)
    random.seed(seed)
    np.random.seed(seed)
    module = Noisy(*tiny_networks(), game=GAMES[game]())
    vars(module).update(draws=draws, where=where, shift=0.0, **saves)
    folder = saves.get("folder")
    savers = [ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)] if folder else []
    trainer = tiny_trainer(steps, callbacks=savers, enable_checkpointing=bool(savers))
    trainer.fit(module, tiny_loader(24), ckpt_path=resume)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    ("game", "draws", "where"),
    pairwise(["extrapolated", "plain"], sorted(DRAWS.keys() - {"nothing"}), ["hook", "unpack_batch", "loss"]),
)
def test_noise_from_elsewhere_goes_on_after_a_resume(game, draws, where, tmp_path):
    whole = trained(game, draws, where, 7, seed=1, folder=tmp_path)  # the fourth step ends an epoch
    resumed = trained(game, draws, where, 7, seed=2, resume=tmp_path / "step=4.ckpt")
    assert torch.equal(whole, resumed)
    assert not torch.equal(whole, trained(game, draws, where, 7, seed=2))  # the noise matters, and so does its seed


@pytest.mark.parametrize(
    ("game", "player", "where"),
    pairwise(["extrapolated", "exact"], ["discriminator", "generator"], ["hook", "unpack_batch", "loss"]),
)
def test_noise_of_a_step_that_a_checkpoint_interrupts(game, player, where, tmp_path):
    path = tmp_path / "within.ckpt"
    whole = trained(game, "numpy", where, 7, seed=1, saves_in_turn_of=(4, player), path=path)
    resumed = trained(game, "numpy", where, 7, seed=2, resume=path)
    assert torch.equal(whole, resumed)

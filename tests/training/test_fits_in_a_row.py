"""A fit begins with nothing of an earlier one, resumed or not, and a resume at any step is the uninterrupted run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_lead import GeneratorEMA, LeadGANModule
from lightning_lead.data import ResumableDataLoader


class SaveBetweenTurns(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 2 and pl_module._open.turns_made == 1:
            trainer.save_checkpoint(self.path)


class Fails(pl.Callback):
    def __init__(self, hook):
        setattr(self, hook, self.fail)

    def fail(self, *_):
        raise RuntimeError("a callback fails")


@pytest.mark.parametrize("hook", ["on_load_checkpoint", "on_train_start", None])
def test_a_fit_after_a_resume_that_played_nothing_begins_anew(hook, tmp_path):
    path = tmp_path / "within.ckpt"
    tiny_trainer(4, callbacks=[SaveBetweenTurns(path)]).fit(tiny_gan(game="AlternatingGDA"), tiny_loader(16))
    module = tiny_gan(game="AlternatingGDA")
    if hook is None:  # at its end already
        tiny_trainer(2).fit(module, tiny_loader(16), ckpt_path=path)
    else:
        with pytest.raises(RuntimeError, match="a callback fails"):
            tiny_trainer(6, callbacks=[Fails(hook)]).fit(module, tiny_loader(16), ckpt_path=path)
    module.load_state_dict(tiny_gan(game="AlternatingGDA").state_dict())
    fresh = tiny_gan(game="AlternatingGDA")
    for each in (module, fresh):
        torch.manual_seed(3)
        random.seed(3)
        tiny_trainer(2).fit(each, tiny_loader(16))
    assert random.random() == random.Random(3).random()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), fresh.parameters(), strict=True))


class Save(pl.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [2, 3, 4])
@pytest.mark.parametrize("game", ["LEAD", "LEAD(cross='extrapolated')"])
def test_a_run_that_is_saved_where_its_warm_up_ends_resumes_bit_for_bit(game, step, tmp_path):
    def fit(steps, **saved):
        torch.manual_seed(0)
        module = LeadGANModule(*tiny_networks(batch_norm=True, dtype=torch.float32), game=game, discriminator_warmup=3)
        loader = ResumableDataLoader(tiny_points(dtype=torch.float32), 16, seed=1)
        callbacks = [] if saved else [Save(tmp_path / "a.ckpt", step)]
        tiny_trainer(steps, callbacks=callbacks).fit(module, loader, **saved)
        return module.state_dict()

    whole, resumed = fit(9), fit(9, ckpt_path=tmp_path / "a.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


class Checkpointed(nn.Module):
    latent_dim = 3

    def __init__(self, on):
        super().__init__()
        self.on, self.inner, self.last = on, nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)), nn.Linear(6, 2)

    def forward(self, z):
        return self.last(checkpoint(self.inner, z, use_reentrant=False) if self.on else self.inner(z))


@pytest.mark.parametrize("game", ["AlternatingGDA", "LEAD(cross='extrapolated')"])
def test_a_checkpointed_generator_that_waits_moves_its_statistics_once(game):
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        module = LeadGANModule(Checkpointed(on).double(), tiny_networks()[1], game=game, discriminator_warmup=2)
        tiny_trainer(8).fit(module, tiny_loader(16))
        found.append(module.generator.inner[1].num_batches_tracked.item())
    assert found[0] == found[1]


def test_settings_of_the_optimizer_that_a_checkpoint_overrules_are_named(tmp_path, caplog):
    trainer = tiny_trainer(2)
    trainer.fit(tiny_gan(), tiny_loader(16))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with caplog.at_level("INFO"):
        tiny_trainer(4).fit(tiny_gan(generator_lr=0.5), tiny_loader(16), ckpt_path=tmp_path / "a.ckpt")
    assert "goes on with lr=0.01 of its checkpoint, not with 0.5" in caplog.text


@pytest.mark.parametrize("number", [np.float32(0.01), np.float64(0.01), torch.tensor(0.01)])
def test_numbers_of_other_libraries_are_numbers(number):
    tiny_gan(generator_lr=number, channels_last=np.bool_(False))
    GeneratorEMA(halflife_images=np.int64(100))

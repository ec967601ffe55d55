"""ModeCounter: what it counts, what it remembers, and what it leaves alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny import tiny_gan, tiny_loader, tiny_trainer

from lightning_lead import ConfigurationError, GaussiansDataModule, GeneratorEMA, ModeCounter
from lightning_lead.callbacks import find_ema, generate
from lightning_lead.data import modes_covered


def fit(steps, *callbacks, ckpt_path=None, **settings):
    torch.manual_seed(3)
    gan, data = tiny_gan(dtype=torch.float32), GaussiansDataModule(num_points=64, batch_size=16, std=0.5)
    trainer = tiny_trainer(steps, callbacks=list(callbacks), **settings)
    trainer.fit(gan, data, ckpt_path=ckpt_path)
    return trainer, gan, data


def test_the_last_count_is_that_of_the_samples_of_the_average():
    counter = ModeCounter(every_n_steps=3, num_samples=200)
    # the counter stands first, and must let the average take in the step that was just made
    trainer, gan, data = fit(6, counter, GeneratorEMA(halflife_images=50))
    assert [record["step"] for record in counter.history] == [3, 6]
    (points,) = generate(gan, 200, seed=0, batch_size=200, ema=find_ema(trainer))
    expected = modes_covered(points, data.modes, std=0.5, at_least=round(0.1 * 200 / 8))
    assert 0 < expected.high_quality < 1
    values = {"modes": float(expected.covered), "high_quality": expected.high_quality}
    assert counter.history[-1]["values"] == values
    assert {name: trainer.callback_metrics[name].item() for name in values} == pytest.approx(values, abs=1e-6)
    (live,) = generate(gan, 200, seed=0, batch_size=200)
    assert not torch.equal(live, points)  # the control


def test_counting_leaves_training_alone():
    counted, plain = fit(6, ModeCounter(every_n_steps=1))[1], fit(6)[1]
    for a, b in zip(counted.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # another ModelCheckpoint watches it now
def test_a_resumed_run_goes_on_with_its_history_and_can_be_monitored(tmp_path):
    whole = ModeCounter(every_n_steps=2)
    fit(6, whole)
    saver = ModelCheckpoint(tmp_path, filename="a", every_n_train_steps=5)  # in the second epoch of four batches
    fit(6, ModeCounter(every_n_steps=2), saver, enable_checkpointing=True)
    resumed = ModeCounter(every_n_steps=2)
    best = ModelCheckpoint(tmp_path, monitor="modes", mode="max", every_n_train_steps=1)
    fit(6, resumed, best, ckpt_path=tmp_path / "a.ckpt", enable_checkpointing=True)
    assert len(whole.history) == 3
    assert resumed.history == whole.history
    assert best.best_model_score is not None


def test_every_rank_has_the_same_buffers_before_samples_are_drawn(monkeypatch):
    gan = tiny_gan(batch_norm=True)
    said = []
    monkeypatch.setattr(gan, "sync_buffers", lambda: said.append("synchronised"))
    monkeypatch.setattr(gan, "log", lambda *_, **__: None)
    drawn = lambda *_, **__: iter([said.append("drawn") or torch.zeros(4, 2)])  # noqa: E731
    monkeypatch.setattr("lightning_lead.callbacks.mode_counter.generate", drawn)
    trainer = SimpleNamespace(global_step=2, datamodule=GaussiansDataModule(num_points=8), callbacks=[], loggers=[])
    ModeCounter(every_n_steps=2, num_samples=4).on_train_batch_end(trainer, gan)
    assert said == ["synchronised", "drawn"]


@pytest.mark.parametrize("setting", [{"every_n_steps": 0}, {"num_samples": 1.5}, {"at_least": 2.0}])
def test_a_bad_setting_is_refused(setting):
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        ModeCounter(**setting)


def test_data_without_modes_and_modules_without_samples_are_refused_at_the_start():
    with pytest.raises(ConfigurationError, match="where they are"):
        tiny_trainer(1, callbacks=[ModeCounter()]).fit(tiny_gan(), tiny_loader(16))
    with pytest.raises(ConfigurationError, match="has no generator"):
        ModeCounter().setup(tiny_trainer(1), LightningModule(), "fit")

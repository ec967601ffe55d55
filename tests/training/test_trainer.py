"""What a Lightning user expects of a module: loggers, bars, monitors, predict, and starting processes by spawn."""

from __future__ import annotations

import csv
import multiprocessing
from pathlib import Path

import processes
import pytest
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tiny import tiny_gan, tiny_loader, tiny_trainer

from lightning_lead import DigitsDataModule, GeneratorEMA, LeadGANModule
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator


def digits_gan(**settings):
    torch.manual_seed(0)
    generator = DCGANGenerator(latent_dim=8, channels=1, image_size=8, width=4)
    return LeadGANModule(generator, DCGANDiscriminator(channels=1, image_size=8, width=4), **settings)


def test_csv_logger_and_learning_rate_monitor(tmp_path):
    scheduler = lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5)  # noqa: E731
    gan = tiny_gan(scheduler=scheduler, generator_lr=0.02)
    logger = CSVLogger(tmp_path)
    tiny_trainer(3, logger=logger, log_every_n_steps=1, callbacks=[LearningRateMonitor("step")]).fit(
        gan, tiny_loader(24)
    )
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
    losses = [row for row in rows if row["loss/generator"]]
    assert [int(row["step"]) for row in losses] == [0, 1, 2]
    rates = [float(row["lr-Adam/generator"]) for row in rows if row["lr-Adam/generator"]]
    assert rates == pytest.approx([0.02, 0.01, 0.005])


def test_tensorboard_logger(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    tiny_trainer(2, logger=logger, log_every_n_steps=1).fit(tiny_gan(), tiny_loader(24))
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    assert [e.step for e in events.Scalars("loss/discriminator")] == [0, 1]


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_progress_bars_show_both_losses(bar, capsys):
    trainer = tiny_trainer(2, enable_progress_bar=True, callbacks=[bar()])
    trainer.fit(tiny_gan(), tiny_loader(24))
    assert {"loss/generator", "loss/discriminator"} <= set(trainer.progress_bar_metrics)
    out = capsys.readouterr()
    assert "loss/generator" in out.out + out.err


def test_limits_are_counted_in_game_steps():
    trainer = tiny_trainer(-1, max_epochs=2, limit_train_batches=3)
    trainer.fit(tiny_gan(discriminator_steps=2), tiny_loader(24))
    assert trainer.global_step == 6


def test_predict_draws_one_sample_per_index_again_and_again():
    gan, data = digits_gan(), DigitsDataModule(batch_size=32, num_predict=10)
    trainer = tiny_trainer(1)
    first, second = (torch.cat(trainer.predict(gan, data)) for _ in range(2))
    assert first.shape == (10, 1, 8, 8)
    assert torch.equal(first, second)
    assert len({tuple(image.flatten().tolist()) for image in first}) == 10


def test_predict_uses_the_average_of_the_checkpoint(tmp_path):
    gan, data = digits_gan(generator_lr=0.05), DigitsDataModule(batch_size=64, num_predict=4)
    trainer = tiny_trainer(5, callbacks=[GeneratorEMA(halflife_images=1000, rampup=None)])
    trainer.fit(gan, data)
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    averaged = tiny_trainer(1, callbacks=[GeneratorEMA(halflife_images=1000, rampup=None)])
    live = tiny_trainer(1)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        plain = torch.cat(live.predict(digits_gan(), data, ckpt_path=tmp_path / "gan.ckpt"))
    smooth = torch.cat(averaged.predict(digits_gan(), data, ckpt_path=tmp_path / "gan.ckpt"))
    expected = torch.cat(trainer.predict(gan, data))
    assert torch.equal(smooth, expected)
    assert not torch.equal(plain, smooth)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_by_spawn(monkeypatch):
    """They get pickles alone, as spawned ones do, but are forks of a process that has done the imports."""
    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "_Popen", staticmethod(processes.spawned))
    gan = tiny_gan()
    before = torch.cat([p.detach().flatten().clone() for p in gan.parameters()])
    trainer = tiny_trainer(2, strategy="ddp_spawn", devices=2, use_distributed_sampler=True)
    trainer.fit(gan, tiny_loader(24))
    assert torch.isfinite(trainer.callback_metrics["loss/generator"])
    after = torch.cat([p.detach().flatten() for p in gan.parameters()])
    assert not torch.equal(before, after)

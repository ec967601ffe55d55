"""Lightning's own weight averaging: the protocol says of which weights a score is."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_lead import GenerativeMetrics
from lightning_lead._hashing import tensors_hash

AVERAGE = {"callback": "EMAWeightAveraging of Lightning"}


def scores(kit, every=None):
    settings = {"num_samples": 24, "batch_size": 12, "metrics": ["fid"], "cache": False}
    return GenerativeMetrics(kit.TinyExtractor(), every_n_steps=every, reference=kit.images(48), **settings)


@pytest.fixture
def fitted(kit, tmp_path):
    def run(first, **settings):
        torch.manual_seed(1)
        metrics, averaging = scores(kit, settings.get("every")), EMAWeightAveraging(decay=0.5)
        keep = ModelCheckpoint(tmp_path, filename="last", save_top_k=-1, every_n_train_steps=4)
        callbacks = [metrics, averaging, keep] if first == "metrics" else [averaging, metrics, keep]
        trainer = kit.trainer(tmp_path, 4, callbacks=callbacks, enable_checkpointing=True, num_sanity_val_steps=0)
        module, loader = kit.gan(), DataLoader(kit.images(48), 12)  # an epoch has 4 steps
        trainer.fit(module, loader, loader)
        return trainer, module, metrics

    return run


def hash_of(module: pl.LightningModule) -> str:
    generator = module.generator
    tensors = dict(generator.named_parameters()) | dict(generator.named_buffers())
    return tensors_hash({f"generator.{name}": tensor.detach() for name, tensor in tensors.items()})


def test_averages_that_are_in_place_in_validation_are_named(fitted):
    _, module, metrics = fitted("metrics")
    protocol = metrics.history[-1]["protocol"]
    assert protocol["ema"] == AVERAGE
    assert protocol["generator_sha256"] == hash_of(module)  # at the end of a fit Lightning leaves the averages


def test_weights_that_are_back_are_the_live_ones(fitted):
    _, module, metrics = fitted("averaging")
    protocol = metrics.history[-1]["protocol"]
    assert protocol["ema"] is None
    assert protocol["generator_sha256"] != hash_of(module)


def test_scores_between_validations_are_of_live_weights(fitted):
    _, module, metrics = fitted("metrics", every=2)
    assert [record["protocol"]["ema"] for record in metrics.history] == [None, None]
    assert metrics.history[-1]["protocol"]["generator_sha256"] != hash_of(module)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_of_averages_says_so(fitted, kit, tmp_path):
    _, module, _ = fitted("metrics")
    metrics = scores(kit)
    trainer = kit.trainer(tmp_path, 4, callbacks=[metrics])
    trainer.validate(kit.gan(), DataLoader(kit.images(), 12), ckpt_path=str(tmp_path / "last.ckpt"), verbose=False)
    protocol = metrics.history[-1]["protocol"]
    assert protocol["ema"] == {"callback": "WeightAveraging of Lightning"}
    assert protocol["generator_sha256"] == hash_of(module)

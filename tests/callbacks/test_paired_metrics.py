"""Outputs beside their targets: the means of a whole validation set, of averaged weights, whatever the module is."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_lead import AdversarialModule, ConfigurationError, GeneratorEMA, PairedMetrics


class Sharpener(AdversarialModule):
    """Images from blurred ones; dropout, so that a mode that is not eval would be seen."""

    def __init__(self):
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Tanh(), nn.Dropout(0.5), nn.Conv2d(4, 1, 3, 1, 1))
        super().__init__(generator, nn.Conv2d(1, 1, 4, 2), generator_lr=0.05)

    def task_losses(self, outputs, inputs, targets):
        return {"l1": (outputs - targets).abs().mean()}


def images(count):
    draw = torch.Generator().manual_seed(3)
    targets = torch.rand(count, 1, 16, 16, generator=draw) * 2 - 1
    return torch.nn.functional.avg_pool2d(targets, 3, 1, 1), targets


def trainer_of(tmp_path, *callbacks, **settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    given = quiet | {"enable_model_summary": False, "default_root_dir": tmp_path} | settings
    return pl.Trainer(callbacks=list(callbacks), **given)


def expected(module, inputs, targets):
    module.eval()
    with torch.no_grad():
        outputs = module(inputs)
    module.train()
    squares = (outputs.clamp(-1, 1) - targets).square().mean((1, 2, 3))
    ssim = structural_similarity_index_measure(outputs, targets, data_range=(-1.0, 1.0))
    return {
        "l1": float((outputs - targets).abs().mean()),
        "psnr": float((10 * (4 / squares).log10()).mean()),
        "ssim": float(ssim),
    }


def test_they_are_those_of_the_whole_set(tmp_path):
    inputs, targets = images(23)  # batches of unequal sizes
    module = Sharpener()
    with torch.no_grad():
        module.generator[-1].bias += 0.8  # some outputs leave the range
    loader = DataLoader(TensorDataset(inputs, targets), 10)
    (found,) = trainer_of(tmp_path, PairedMetrics()).validate(module, loader, verbose=False)
    assert found == pytest.approx(expected(module, inputs, targets), rel=1e-5)
    (tested,) = trainer_of(tmp_path, PairedMetrics(["l1"], name_prefix="again/")).test(module, loader, verbose=False)
    assert tested == {"again/l1": pytest.approx(found["l1"])}


def test_in_a_fit_they_are_of_the_averaged_weights(tmp_path):
    inputs, targets = images(24)
    loader = DataLoader(TensorDataset(inputs, targets), 8)
    ema, module = GeneratorEMA(halflife_images=200), Sharpener()
    with torch.no_grad():
        module.generator[-1].bias += 0.8  # far from what it learns
    trainer = trainer_of(tmp_path, PairedMetrics(), ema, max_steps=3, num_sanity_val_steps=0)
    trainer.fit(module, loader, loader)
    found = {name: float(trainer.callback_metrics[name]) for name in ("l1", "psnr", "ssim")}
    live = expected(module, inputs, targets)
    module.load_state_dict(ema.average(module), strict=False)
    assert found == pytest.approx(expected(module, inputs, targets), rel=2e-6)
    assert found["l1"] != pytest.approx(live["l1"], rel=5e-5)  # the average begins near the weights
    assert module.training


def test_noise_of_the_outputs_is_the_same_each_time_and_leaves_no_trace(tmp_path):
    class Noisy(Sharpener):
        def unpack_batch(self, batch):
            return batch[0] + torch.randn_like(batch[0]), batch[1]

    module, loader, found, states = Noisy(), DataLoader(TensorDataset(*images(20)), 8), [], []
    for seed, callbacks in ((0, [PairedMetrics(["l1"])]), (1, [PairedMetrics(["l1"])]), (1, [])):
        torch.manual_seed(seed)
        found += trainer_of(tmp_path, *callbacks).validate(module, [loader, loader], verbose=False)[:1]
        states.append(torch.get_rng_state())
    assert found[0] == found[1]
    assert found[0]["l1"] > 0
    assert torch.equal(states[1], states[2])  # loaders draw, the callback does not


@pytest.mark.parametrize("metrics", [[], "psnr", ["l1", "lpips"]])
def test_unknown_metrics_are_refused(metrics):
    with pytest.raises(ConfigurationError, match=r"some of l1, psnr, ssim|pass \['psnr'\]"):
        PairedMetrics(metrics)


def test_what_cannot_be_compared_is_refused(tmp_path):
    inputs, targets = images(8)

    class Wrong(Sharpener):
        def translate(self, batch):
            return super().translate(batch)[0], batch[1][:, :, :8]

    loader = DataLoader(TensorDataset(inputs, targets), 8)
    with pytest.raises(ConfigurationError, match=r"one shape.*got \(8, 1, 16, 16\) and \(8, 1, 8, 16\)"):
        trainer_of(tmp_path, PairedMetrics()).validate(Wrong(), loader, verbose=False)

    class Plain(pl.LightningModule):
        def validation_step(self, batch, batch_idx):
            pass

    with pytest.raises(ConfigurationError, match=r"Plain has no translate"):
        trainer_of(tmp_path, PairedMetrics()).validate(Plain(), loader, verbose=False)

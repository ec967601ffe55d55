"""What the package exports, fitted on the device: bitwise what the processor learns, and one wait per turn."""

from __future__ import annotations

import callback_kit
import pytest
import torch
from cases import CASES, Translator, cifar10, translations
from device_runs import device_trainer, waits_of_fit
from fake_device import DEVICE, KIND, fake_device
from PIL import Image
from tiny import tiny_gan, tiny_points, tiny_trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_lead import (
    CompactCheckpointIO,
    GeneratorEMA,
    ImageWriter,
    LEADStrategy,
    PairedMetrics,
    SegmentCheckpoint,
)
from lightning_lead.calculus import PrivateNoise, private_rng
from lightning_lead.callbacks import generate
from lightning_lead.engine import BatchLosses


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder to work in, with a few images in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(tmp_path / "home"))
    return tmp_path


def write_images(name, folder):
    if name.startswith("CIFAR-10"):
        cifar10(folder / "home")
    if name == "images of a folder":
        (folder / "pictures").mkdir()
        for k in range(12):
            Image.new("RGB", (8, 8), (20 * k, 100, 255 - 20 * k)).save(folder / "pictures" / f"{k:02d}.png")


def weights(module):
    return torch.cat([p.detach().flatten().double() for p in module.parameters()])


@pytest.mark.parametrize("name", CASES)
def test_a_fit(name, store):
    case, ends = CASES[name], []
    write_images(name, store)
    for there in (True, False):
        torch.manual_seed(2)
        module = case.module()
        extra = {"callbacks": case.callbacks(store) if case.callbacks else None, "default_root_dir": str(store)}
        if there:
            with fake_device() as device:
                waits = waits_of_fit(device, module, case.data(), **extra)
        else:
            torch.manual_seed(7)
            tiny_trainer(3, **extra).fit(module, case.data())
        ends.append(weights(module))
    assert torch.isfinite(ends[0]).all()
    assert torch.equal(*ends)
    assert waits[2].total() == case.waits, waits[2]  # the second step is that in which callbacks look


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_run_on_the_device_resumes_bit_for_bit(store):
    """Also where it goes on upon the processor; with an average and a segment's checkpoint, whole and packed."""
    same_batches = DataLoader(tiny_points(24).repeat(4, 1), 24)  # wherever it resumes

    def fit(steps, trainer_of, plugins=(), **kwargs):
        torch.manual_seed(3)
        gan, ema = tiny_gan(batch_norm=True, game=LEADStrategy(1.0)), GeneratorEMA(halflife_images=50)
        segment = SegmentCheckpoint(str(store / "runs"), every_n_steps=2, generator="float16")
        callbacks = [ema] if kwargs else [ema, segment]
        trainer = trainer_of(steps, callbacks=callbacks, enable_checkpointing=True, plugins=[*plugins])
        trainer.fit(gan, same_batches, **kwargs)
        return torch.cat([weights(gan), *(t.detach().cpu().flatten().double() for t in ema.average(gan).values())])

    straight, saved = fit(4, tiny_trainer), {"ckpt_path": store / "runs" / "last.ckpt"}
    for plugins in ([], [CompactCheckpointIO()]):
        with fake_device():
            fit(2, device_trainer, plugins)
            assert torch.equal(fit(4, device_trainer, plugins, **saved), straight)
    assert torch.equal(fit(4, tiny_trainer, plugins, **saved), straight)


# ---- without a fit --------------------------------------------------------------------------------------------------


def test_paired_metrics_on_the_device(store):
    found = []
    for there in (True, False):
        torch.manual_seed(2)
        module = Translator()
        if there:
            with fake_device():
                # of inference tensors torch makes no wrappers
                trainer = device_trainer(1, callbacks=[PairedMetrics()], inference_mode=False)
                found += trainer.validate(module, translations(), verbose=False)
        else:
            found += tiny_trainer(1, callbacks=[PairedMetrics()]).validate(module, translations(), verbose=False)
    assert found[0] == pytest.approx(found[1])


def test_predictions_are_written_from_the_device(store):
    with fake_device():
        trainer = device_trainer(1, callbacks=[ImageWriter(store / "out")], inference_mode=False)  # as above
        trainer.predict(callback_kit.gan(kind=callback_kit.Predicts), DataLoader(range(5), 3))
    assert len(list((store / "out").glob("image_*.png"))) == 5


def test_samples_and_private_noise_are_drawn_on_the_device():
    gan = tiny_gan()
    here = torch.cat(list(generate(gan, 10, seed=0, batch_size=4)))
    with fake_device() as device:
        there = torch.cat(list(generate(gan.to(DEVICE), 10, seed=0, batch_size=4)))
        assert there.device == DEVICE
        assert torch.equal(there.cpu(), here)
        before, draws = device.generator.get_state(), []
        for _ in range(2):
            with private_rng(3, KIND) as generator:
                draws += [torch.rand(4, device=KIND), torch.rand(4, device=KIND, generator=generator)]
        assert torch.equal(device.generator.get_state(), before)
        assert torch.equal(draws[0], draws[2])
        assert torch.equal(draws[1], draws[3])
        assert not torch.equal(draws[0], draws[1])


def test_a_repeat_repeats_what_is_drawn_on_the_device():
    with fake_device():
        net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).to(DEVICE)
        batch = torch.ones(4, 2, device=KIND)
        for noise, repeats in ((PrivateNoise(KIND), True), (PrivateNoise(), False)):  # the processor's, as a control
            losses = BatchLosses(net, lambda x, _: {"x": net(x).mean()}, batch, 7, noise=noise, repeated=True)
            first = losses({}, frozenset({"x"}), replay=False)["x"]
            assert torch.equal(first, losses({}, frozenset({"x"}), replay=True)["x"]) == repeats

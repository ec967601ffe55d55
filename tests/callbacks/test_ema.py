"""The average follows the formula, knows only the generator, and survives a checkpoint bit for bit."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from lightning_lead import CheckpointMismatchError, ConfigurationError
from lightning_lead.callbacks import GeneratorEMA, SampleGrid, find_ema, generate


class Record(pl.Callback):
    """The live generator after every game step."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append({k: p.detach().clone() for k, p in pl_module.generator.named_parameters()})


def fit(kit, folder, *callbacks, steps=6, ckpt_path=None, model=None, **settings):
    model = model or kit.gan()
    trainer = kit.trainer(folder, steps, callbacks=list(callbacks), **settings)
    torch.manual_seed(1)
    trainer.fit(model, kit.loader(), ckpt_path=ckpt_path)
    return trainer, model


@pytest.mark.parametrize(("halflife", "rampup"), [(35.0, None), (35.0, 0.5), (1e9, 0.5)])
def test_hand_formula(kit, tmp_path, halflife, rampup):
    record, ema = Record(), GeneratorEMA(halflife_images=halflife, rampup=rampup)
    start = {k: p.detach().clone() for k, p in kit.gan().generator.named_parameters()}
    _, model = fit(kit, tmp_path, ema, record)
    average = {k: p.double() for k, p in start.items()}
    for n, weights in enumerate(record.weights):
        h = halflife if rampup is None else min(halflife, rampup * 10 * n)
        d = 2 ** (-10 / h) if h else 0.0
        average = {k: d * average[k] + (1 - d) * weights[k].double() for k in average}
    got = ema.average(model)
    for name, expected in average.items():
        assert (got[f"generator.{name}"] - expected).abs().max() < 1e-6, name  # float32
    distance = max((got[f"generator.{k}"] - p).abs().max() for k, p in record.weights[-1].items())
    assert distance > 1e-4  # the control: an average is not the last value


def test_only_the_generator_and_its_live_buffers(kit, tmp_path):
    ema = GeneratorEMA(halflife_images=50)
    _, model = fit(kit, tmp_path, ema)
    average = ema.average(model)
    assert average.keys() == {k for k in model.state_dict() if k.startswith("generator.")}
    assert average["generator.norm.running_mean"] is model.generator.norm.running_mean
    assert model.generator.norm.num_batches_tracked > 0


def test_functional_call_and_no_swapping(kit, tmp_path):
    ema = GeneratorEMA(halflife_images=500)
    _, model = fit(kit, tmp_path, ema)
    live = {k: v.clone() for k, v in model.state_dict().items()}
    (averaged,) = generate(model, 4, seed=0, batch_size=4, ema=ema)
    assert all(torch.equal(v, live[k]) for k, v in model.state_dict().items())
    twin = kit.gan()
    twin.load_state_dict({**live, **ema.average(model)})
    assert torch.equal(averaged, next(generate(twin, 4, seed=0, batch_size=4)))
    assert not torch.equal(averaged, next(generate(model, 4, seed=0, batch_size=4)))


@pytest.mark.parametrize("at", [1, 3])
def test_resume_is_bitwise(kit, tmp_path, at):
    """One batch an epoch, so that a plain loader hands the resumed run the same batches."""
    whole, half, second = (GeneratorEMA(halflife_images=80) for _ in range(3))
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=at, save_top_k=-1)
    settings = {"enable_checkpointing": True, "limit_train_batches": 1}
    _, expected = fit(kit, tmp_path, whole, limit_train_batches=1)
    fit(kit, tmp_path, half, save, steps=at, **settings)
    path = tmp_path / f"step={at}.ckpt"
    state = torch.load(path, weights_only=True)["callbacks"][half.state_key]
    assert state["step"] == at
    assert state["seen"] == 10 * at
    _, got = fit(kit, tmp_path, second, save, ckpt_path=path, **settings)
    assert second.state_dict()["seen"] == whole.state_dict()["seen"] == 60
    assert all(torch.equal(p, q) for p, q in zip(expected.parameters(), got.parameters(), strict=True))
    for name, tensor in whole.state_dict()["average"].items():
        assert torch.equal(tensor, second.state_dict()["average"][name]), name
        assert not torch.equal(tensor, state["average"][name])  # the control


def test_a_checkpoint_from_an_earlier_callback_is_up_to_date(kit, tmp_path):
    class Early(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    ema = GeneratorEMA(halflife_images=80)
    fit(kit, tmp_path, Early(), ema, steps=3)
    saved = torch.load(tmp_path / "early.ckpt", weights_only=True)["callbacks"][ema.state_key]
    assert saved["step"] == 3
    assert all(torch.equal(t, saved["average"][k]) for k, t in ema.state_dict()["average"].items())


def test_another_generator_is_refused(kit, tmp_path):
    class Other(kit.TinyGenerator):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 16, bias=False)

    trainer, _ = fit(kit, tmp_path, GeneratorEMA(halflife_images=80))
    ema = trainer.callbacks[0]
    with pytest.raises(CheckpointMismatchError, match=r"generator\.first\.bias has shape \[16\].*got nothing"):
        ema.average(kit.gan(Other()))
    wide = kit.TinyGenerator()
    wide.last = nn.Linear(16, 32)
    with pytest.raises(CheckpointMismatchError, match=r"generator\.last\.weight has shape \[16, 16\].*\[32, 16\]"):
        ema.average(kit.gan(wide))


def test_float32_under_bfloat16_weights(kit):
    model = kit.gan()
    model.generator.bfloat16()
    ema = GeneratorEMA(halflife_images=1e4, rampup=None)
    ema.on_fit_start(None, model)
    assert {t.dtype for t in ema.state_dict()["average"].values()} == {torch.float32}
    assert {p.dtype for k, p in ema.average(model).items() if k.endswith("weight")} == {torch.bfloat16}


def test_images_are_those_of_the_module_if_it_counts_them(kit, tmp_path):
    model = kit.gan()
    model.images_per_step = 7
    ema = GeneratorEMA(halflife_images=80)
    fit(kit, tmp_path, ema, model=model, steps=3)
    assert ema.state_dict()["seen"] == 21


def test_a_new_fit_begins_anew_and_a_longer_one_goes_on(kit, tmp_path):
    ema = GeneratorEMA(halflife_images=80)
    trainer, model = fit(kit, tmp_path, ema, steps=6)
    trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = 3, 12
    trainer.fit(model, kit.loader())
    assert ema.state_dict()["seen"] == 120
    fit(kit, tmp_path, ema, steps=2)
    assert ema.state_dict()["seen"] == 20


def test_predict_from_a_checkpoint_uses_it(kit, tmp_path):
    ema = GeneratorEMA(halflife_images=500)
    trainer, model = fit(kit, tmp_path, ema)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    fresh = GeneratorEMA(halflife_images=500)
    predictor = kit.trainer(tmp_path, callbacks=[fresh])
    assert find_ema(predictor) is None
    (images,) = predictor.predict(
        kit.gan(kind=kit.Predicts), torch.utils.data.DataLoader(range(4), 4), ckpt_path=tmp_path / "a.ckpt"
    )
    assert images.shape == (4, 1, 4, 4)
    assert find_ema(predictor) is fresh
    assert all(
        torch.equal(a, b) for a, b in zip(ema.average(model).values(), fresh.average(model).values(), strict=True)
    )


@pytest.mark.parametrize(
    "settings", [{"halflife_images": 0}, {"halflife_images": float("nan")}, {"halflife_images": 5, "rampup": 0}]
)
def test_settings_are_checked(settings):
    with pytest.raises(ConfigurationError, match="must be finite and > 0"):
        GeneratorEMA(**settings)


def test_before_anything_was_averaged(kit):
    with pytest.raises(ConfigurationError, match="before a fit"):
        GeneratorEMA(halflife_images=5).average(kit.gan())


@pytest.mark.parametrize("callback", [GeneratorEMA(halflife_images=5), SampleGrid()])
def test_a_module_without_a_generator(kit, tmp_path, callback):
    class Plain(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return None

    with pytest.raises(ConfigurationError, match=r"has no generator"):
        kit.trainer(tmp_path, callbacks=[callback]).fit(Plain(), kit.loader())

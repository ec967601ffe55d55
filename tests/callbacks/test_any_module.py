"""Averages and scores of a module that is no `LeadGANModule`: named networks, and a method `sample(n)`."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import softplus

from lightning_lead import ConfigurationError, GenerativeMetrics, GeneratorEMA, LeadMixin, SampleGrid
from lightning_lead._errors import CheckpointMismatchError
from lightning_lead.gan._sampling import generate


class Autoencoder(LeadMixin, pl.LightningModule):
    """An encoder and a decoder against a critic, as VQGAN; a sample is a decoded code."""

    def __init__(self, game: Any = "LEAD(cross='extrapolated')", shape: tuple[int, ...] = (1, 8, 8)) -> None:
        super().__init__(game=game)
        size = int(torch.Size(shape).numel())
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 4))
        self.decoder = nn.Sequential(nn.Linear(4, size), nn.BatchNorm1d(size), nn.Sigmoid(), nn.Unflatten(1, shape))
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 1))

    def players(self):
        return {"critic": self.critic.parameters(), "auto": [*self.encoder.parameters(), *self.decoder.parameters()]}

    def decoded(self, batch):
        real = (batch if isinstance(batch, torch.Tensor) else batch[0]).float()
        real = real / 255 if real.max() > 1 else real
        return real, self.decoder(self.encoder(real))

    def critic_loss(self, batch):
        real, fake = self.decoded(batch)
        return softplus(-self.critic(real)).mean() + softplus(self.critic(fake.detach())).mean()

    def auto_loss(self, batch):
        real, fake = self.decoded(batch)
        return (fake - real).abs().mean() + 0.1 * softplus(-self.critic(fake)).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def sample(self, n):
        return self.decoder(torch.randn(n, 4))


@pytest.fixture
def fit(kit, tmp_path):
    def run(module, *callbacks, steps=4, ckpt_path=None, **settings):
        trainer = kit.trainer(tmp_path, steps, callbacks=list(callbacks), **settings)
        torch.manual_seed(1)
        trainer.fit(module, torch.utils.data.DataLoader(kit.images(), 12), ckpt_path=ckpt_path)
        return trainer

    return run


def module(kit: Any) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(shape=tuple(kit.images().shape[1:]))


def test_a_module_with_a_method_sample_is_scored(kit, fit, tmp_path):
    scored, plain = module(kit), module(kit)
    metrics = GenerativeMetrics(kit.TinyExtractor(), **(kit.SMALL | {"every_n_steps": 2}))
    ema = GeneratorEMA(halflife_images=50, networks=["decoder"])
    fit(scored, ema, metrics, SampleGrid(every_n_steps=2, value_range=(0.0, 1.0)))
    fit(plain)
    assert [record["step"] for record in metrics.history] == [2, 4]
    assert metrics.history[-1]["protocol"]["batch_norm"] == "running statistics"
    assert metrics.history[-1]["protocol"]["ema"] == {"halflife_images": 50, "rampup": 0.05, "networks": ["decoder"]}
    for name, value in plain.state_dict().items():
        assert torch.equal(value, scored.state_dict()[name]), name


def test_samples_are_those_of_the_named_average(kit, fit):
    trained, ema = module(kit), GeneratorEMA(halflife_images=50, networks=["decoder"])
    fit(trained, ema)
    averaged = ema.average(trained)
    assert averaged.keys() == {f"decoder.{name}" for name in trained.decoder.state_dict()}
    live = trained.decoder[0].weight.clone()
    (drawn,) = generate(trained, 6, seed=3, batch_size=6, ema=ema)
    (again,) = generate(trained, 6, seed=3, batch_size=6, ema=ema)
    (of_live,) = generate(trained, 6, seed=3, batch_size=6)
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, of_live)
    assert torch.equal(trained.decoder[0].weight, live)
    trained.load_state_dict(averaged, strict=False)
    (by_hand,) = generate(trained, 6, seed=3, batch_size=6)
    assert torch.equal(drawn, by_hand)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the one that saved
def test_several_networks_are_averaged_side_by_side_and_resume(kit, fit, tmp_path):
    names = ["encoder", "decoder"]
    one, two = (GeneratorEMA(halflife_images=50, networks=[name]) for name in names)
    both, whole = GeneratorEMA(halflife_images=50, networks=names), module(kit)
    fit(whole, one, two, both, steps=10)
    average = both.average(whole)
    for name, tensor in (one.average(whole) | two.average(whole)).items():
        assert torch.equal(average[name], tensor), name
    saver = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=5, filename="{step}", save_top_k=-1)
    half, ema = module(kit), GeneratorEMA(halflife_images=50, networks=names)
    fit(half, ema, saver, steps=6, enable_checkpointing=True)
    resumed, again = module(kit), GeneratorEMA(halflife_images=50, networks=names)
    fit(resumed, again, steps=10, ckpt_path=tmp_path / "step=5.ckpt")
    assert all(torch.equal(t, average[k]) for k, t in again.average(resumed).items())


@pytest.mark.parametrize("networks", ["decoder", [], [3], None])
def test_networks_that_are_no_list_of_names_are_refused(networks):
    with pytest.raises(ConfigurationError, match="networks must be a sequence|pass a list of attributes of the module"):
        GeneratorEMA(halflife_images=50, networks=networks)


def test_a_network_that_the_module_has_not_is_named(kit, fit):
    with pytest.raises(ConfigurationError, match=r"has no generator; .*networks=.*encoder, decoder, critic"):
        fit(module(kit), GeneratorEMA(halflife_images=50))


def test_the_average_of_other_networks_is_refused(kit, fit):
    first = GeneratorEMA(halflife_images=50, networks=["decoder"])
    fit(module(kit), first)
    other = GeneratorEMA(halflife_images=50, networks=["encoder"])
    other.load_state_dict(first.state_dict())
    with pytest.raises(CheckpointMismatchError, match=r"encoder\.1\.weight has shape nothing in the average"):
        other.average(module(kit))


def test_a_module_that_cannot_be_sampled_hears_of_the_method(kit, fit):
    class Silent(Autoencoder):
        sample = property()

    metrics = GenerativeMetrics(kit.TinyExtractor(), **(kit.SMALL | {"every_n_steps": 2}))
    with pytest.raises(ConfigurationError, match=r"or give a LeadMixin a method sample\(n\)"):
        fit(Silent(shape=tuple(kit.images().shape[1:])), metrics)

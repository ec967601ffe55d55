"""What only a CUDA device can show of speed options: no synchronisation in a game step; run with `-m gpu`."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Callback
from tiny import tiny_trainer

from lightning_lead import GeneratorEMA, LeadGANModule, LEADStrategy, Throughput
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.networks import SNGANDiscriminator, SNGANGenerator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def gan(**settings):
    torch.manual_seed(2)
    networks = SNGANGenerator(latent_dim=4, width=8), SNGANDiscriminator(width=8)
    return LeadGANModule(*networks, **({"objective": "hinge", "channels_last": True, "optimizer": fused} | settings))


def fused(groups):
    return torch.optim.Adam(groups, betas=(0.0, 0.9), fused=True)


def fit(model, *callbacks, steps=5, **settings):
    images = torch.rand(8 * steps, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    loader = torch.utils.data.DataLoader(images, 8, pin_memory=True)
    tiny_trainer(steps, accelerator="gpu", callbacks=list(callbacks), **settings).fit(model, loader)
    return torch.cat([p.detach().cpu().flatten() for p in model.parameters()])


class Watched(LeadGANModule):
    """From the second game step on, whoever waits for the device is an error."""

    def training_step(self, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx else "default")
        try:
            super().training_step(batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"cross": "difference"}, {"cross": "extrapolated"}, {"coupling": 0.0}, {"offload": True}],
    ids=["exact", "difference", "extrapolated", "Adam", "offloaded"],
)
def test_a_game_step_does_not_wait_for_the_device(settings, precision):
    model = gan(game=LEADStrategy(**settings, skip_limit=None), discriminator_steps=2, clip=1.0)
    model.__class__ = Watched
    assert torch.isfinite(fit(model, GeneratorEMA(halflife_images=100), precision=precision)).all()


def test_the_look_at_finite_directions_does():
    """The control, and what the option saves."""
    model = gan(game=LEADStrategy())
    model.__class__ = Watched
    with pytest.raises(RuntimeError, match="synchroniz"):
        fit(model)


def test_fused_adam_on_channels_last_learns_what_adam_learns():
    with full_float32():
        plain = fit(gan(channels_last=False, optimizer=None, game=LEADStrategy()), steps=2)
        fast = fit(gan(game=LEADStrategy()), steps=2)
    assert (plain - fast).abs().max() < 4 * 2e-4  # two steps of Adam, whose sign may turn where a gradient is rounding
    assert (plain - fast).abs().median() < 1e-6


def test_images_per_second_are_those_of_the_device():
    """A step that the device is held up in for half a second takes as long, though the host has gone on."""
    speed = Throughput(every_n_steps=2)

    class HoldUp(Callback):
        def on_train_batch_start(self, *_):
            torch.cuda._sleep(int(0.5 * 1e9))  # cycles, at 1 to 2 GHz

    fit(gan(), speed, HoldUp(), steps=6)
    assert 1 / speed.latest["game_steps_per_second"] > 0.2

"""Where TF32 is allowed in training and where it is not, read off the setting at every convolution and matrix product.

The settings can be read on a processor, which does not obey them; `tests/gpu/test_precision.py` is where a device does.
"""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_gan, tiny_loader, tiny_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.calculus._float32 import float32_products
from lightning_lead.gan import _structured_module as gan_module
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator
from lightning_lead.rules import CGD

CONVOLUTIONS = {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default}


class Settings(TorchDispatchMode):
    """The settings in force at convolutions, those of reverse passes included, since they were last taken."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in CONVOLUTIONS:
            self.seen.add(float32_products("cuda")["convolution"])
        return func(*args, **(kwargs or {}))

    def of(self, work):
        """The same function, and the list of what was seen in each of its calls."""
        calls = []

        def noted(*arguments, **keywords):
            self.seen = set()
            result = work(*arguments, **keywords)
            calls.append(set(self.seen))
            return result

        return noted, calls


@pytest.fixture
def fit(monkeypatch):
    """Two game steps; what was seen in the look at the structure, and in each turn."""

    def run(**settings):
        torch.manual_seed(2)
        networks = DCGANGenerator(latent_dim=4, width=2), DCGANDiscriminator(width=2)
        gan, mode = LeadGANModule(*networks, **settings), Settings()
        find, looks = mode.of(gan_module.find_structure)
        monkeypatch.setattr(gan_module, "find_structure", find)
        gan.game.play_turn, turns = mode.of(gan.game.play_turn)
        images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
        with mode:
            tiny_trainer(2).fit(gan, torch.utils.data.DataLoader(images, 8))
        return gan, looks, turns

    return run


ALLOWED, FORBIDDEN = {"tf32"}, {"float32"}


@pytest.mark.parametrize("way", ["by structure", "as a whole"])
@pytest.mark.parametrize("settings", [{}, {"cross_fraction": 0.5}], ids=["all samples", "half of them"])
@pytest.mark.parametrize("cross", ["exact", "difference"])
def test_the_difference_form_is_computed_without_tf32(cross, settings, way, fit, monkeypatch):
    if way == "as a whole":
        monkeypatch.setattr(gan_module, "find_structure", lambda *_, **__: Structure("the test says so", None))
    gan, _, turns = fit(game=LEADStrategy(cross=cross, **settings))
    assert gan._structure.chained is (way == "by structure")
    # the first discriminator update has no cross term yet; all others have; the exact form is the control
    assert turns == [ALLOWED, *[FORBIDDEN if cross == "difference" else ALLOWED] * 3]


def test_both_updates_with_shared_latents_are(fit):
    """The earlier gradient comes out of the discriminator's update; the first one has no cross term and keeps none."""
    _, _, turns = fit(game=LEADStrategy(cross="difference"), shared_latents=True)
    assert turns[2:] == [FORBIDDEN, FORBIDDEN]


def test_ways_to_a_derivative_are_compared_without_tf32(fit):
    gan, (look,), turns = fit(game=LEADStrategy())
    assert gan._structure.piecewise_linear
    assert look == FORBIDDEN
    assert turns == [ALLOWED] * 4  # the control: training itself is left to the user's settings


def test_whether_a_game_is_zero_sum_is_found_without_tf32(monkeypatch):
    seen = []

    class Watched(LeadGANModule):
        def generator_loss(self, logits):
            seen.append(float32_products("cuda")["convolution"])
            return super().generator_loss(logits)

    gan = tiny_gan(objective="minimax", game=CGD())
    gan.__class__ = Watched
    tiny_trainer(1).fit(gan, tiny_loader(24))
    assert "float32" in seen
    assert seen[-1] == "tf32"

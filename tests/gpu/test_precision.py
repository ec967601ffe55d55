"""What TF32 does on a device that has it, and where it is kept out; run with `-m gpu`."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_trainer
from torch.func import functional_call

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead.calculus import CrossTerm, GameOracle
from lightning_lead.calculus._float32 import float32_products, full_float32
from lightning_lead.networks import SNGANDiscriminator, SNGANGenerator

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def has_tf32():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs a device with TF32, an Ampere or later")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_structure_of_sngan32_is_found_under_torch_s_own_settings(precision, channels_last):
    torch.manual_seed(2)
    networks = SNGANGenerator(latent_dim=128, width=256), SNGANDiscriminator(width=128)
    gan = LeadGANModule(*networks, objective="hinge", game=LEADStrategy(), channels_last=channels_last)
    images = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert float32_products("cuda")["convolution"] == "tf32"
    tiny_trainer(1, accelerator="gpu", precision=precision).fit(gan, torch.utils.data.DataLoader(images, 32))
    assert gan._structure == (None, None)  # by structure, and the discriminator piecewise linear
    assert float32_products("cuda")["convolution"] == "tf32"


def game():
    """Losses of two networks as functions of their parameters, the parameters, and a move of the generator."""
    torch.manual_seed(0)
    generator, discriminator = SNGANGenerator(latent_dim=16, width=32), SNGANDiscriminator(width=32)
    networks = {
        "discriminator": discriminator.to(DEVICE).eval(),
        "generator": generator.to(DEVICE).eval(),
    }  # nothing moves in a forward
    latents = torch.randn(16, 16).to(DEVICE)
    names = {player: [name for name, _ in network.named_parameters()] for player, network in networks.items()}
    point = {player: tuple(p.detach() for p in network.parameters()) for player, network in networks.items()}

    def losses(at, wanted, *, replay):
        held = {player: dict(zip(names[player], at[player], strict=True)) for player in at}
        fakes = functional_call(networks["generator"], held["generator"], (latents,))
        value = functional_call(networks["discriminator"], held["discriminator"], (fakes,)).mean()
        return {"discriminator": value, "generator": -value}

    move = tuple(2e-4 * torch.randn_like(p).sign() for p in point["generator"])  # as a step of Adam
    return losses, point, move


def test_the_difference_form_is_the_same_whatever_the_settings_are(has_tf32):
    losses, point, move = game()

    def cross():
        oracle = GameOracle(point, [losses], inspect=False)
        with_term = oracle.gradient("discriminator", at=point, cross=CrossTerm(1e3, move, "difference"))
        return torch.cat([d.flatten() for d in with_term])

    def by_hand():
        earlier = point | {"generator": tuple(p - d for p, d in zip(point["generator"], move, strict=True))}
        now, before = (GameOracle(at, [losses], inspect=False).gradient("discriminator") for at in (point, earlier))
        return torch.cat([(a - b).flatten() for a, b in zip(now, before, strict=True)])

    with full_float32():
        exact, term = cross(), by_hand()
    # the weight of 1e3 makes as much of the term as of the gradient, and of its rounding: 1e-7 of a gradient that is
    # 300 times as large as the term
    assert float((cross() - exact).norm() / exact.norm()) < 0.01
    assert float((by_hand() - term).norm() / term.norm()) > 0.1  # the control: 0.45 in TF32, emulated

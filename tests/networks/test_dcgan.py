"""DCGAN: shapes at every size, labels that matter, norms that can be switched off, and settings that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.utils import parametrize

from lightning_lead import ConfigurationError
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator


def small_generator(**settings: Any) -> DCGANGenerator:
    return DCGANGenerator(**({"latent_dim": 5, "channels": 1, "image_size": 8, "width": 4} | settings))


def small_discriminator(**settings: Any) -> DCGANDiscriminator:
    return DCGANDiscriminator(**({"channels": 1, "image_size": 8, "width": 4} | settings))


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_shapes(size: int, channels: int, classes: int | None) -> None:
    shape = {"channels": channels, "image_size": size, "num_classes": classes}
    generator, discriminator = small_generator(**shape), small_discriminator(**shape)
    labels = torch.tensor([0, 2]) if classes else None
    images = generator(torch.randn(2, 5), labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() < 1
    assert discriminator(images, labels).shape == (2,)
    assert (generator.latent_dim, generator.num_classes, discriminator.num_classes) == (5, classes, classes)


@pytest.mark.parametrize("size", [8, 64])
def test_every_parameter_gets_a_gradient(size: int) -> None:
    networks = small_generator(image_size=size, num_classes=3), small_discriminator(image_size=size, num_classes=3)
    labels = torch.tensor([0, 1, 2, 2])
    networks[1](networks[0](torch.randn(4, 5), labels), labels).sum().backward()
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_labels_change_what_comes_out() -> None:
    generator, discriminator = small_generator(num_classes=3).eval(), small_discriminator(num_classes=3).eval()
    latents, zero, one = torch.randn(2, 5), torch.tensor([0, 0]), torch.tensor([0, 1])
    images, others = generator(latents, zero), generator(latents, one)
    assert torch.equal(images[0], others[0])
    assert not torch.allclose(images[1], others[1], atol=1e-3)
    logits, other = discriminator(images, zero), discriminator(images, one)
    assert torch.equal(logits[0], other[0])
    assert (logits[1] - other[1]).abs() > 1e-4


def test_projection_is_an_inner_product_of_code_and_features() -> None:
    discriminator = small_discriminator(num_classes=3, spectral_norm=False)
    images, labels = torch.randn(2, 1, 8, 8), torch.tensor([2, 0])
    features = discriminator.features(images)
    assert isinstance(discriminator.projection, nn.Embedding)
    wanted = discriminator.head(features)[:, 0] + torch.einsum(
        "nf,nf->n", discriminator.projection.weight[labels], features
    )
    torch.testing.assert_close(discriminator(images, labels), wanted)


def test_spectral_norm_bounds_every_weight() -> None:
    discriminator = small_discriminator(num_classes=3).double()
    with torch.no_grad():
        for layer in discriminator.modules():
            if parametrize.is_parametrized(layer, "weight"):
                layer.parametrizations.weight.original.mul_(50)
    for _ in range(200):
        discriminator(torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1]))
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert len(layers) == 4
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        torch.testing.assert_close(largest, torch.ones_like(largest), atol=1e-2, rtol=0)  # power iteration
    plain = small_discriminator(spectral_norm=False)
    assert not any(parametrize.is_parametrized(layer) for layer in plain.modules())


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own, on its first forward-mode product
def test_both_can_be_differentiated_as_the_exact_cross_term_needs() -> None:
    generator = small_generator(num_classes=3).double().eval()
    discriminator = small_discriminator(num_classes=3).double().eval()
    latents, labels = torch.randn(2, 5, dtype=torch.float64), torch.tensor([0, 2])
    weights = {name: p.detach() for name, p in generator.named_parameters()}
    moves = {name: torch.randn_like(p) for name, p in weights.items()}

    def images(step: float) -> torch.Tensor:
        return functional_call(generator, {n: p + step * moves[n] for n, p in weights.items()}, (latents, labels))

    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(p, moves[name]) for name, p in weights.items()}
        pushed = forward_ad.unpack_dual(functional_call(generator, dual, (latents, labels))).tangent
    assert pushed is not None
    torch.testing.assert_close(pushed, (images(1e-7) - images(-1e-7)) / 2e-7, atol=1e-5, rtol=1e-5)

    fake = images(0.0).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(fake, labels).sum(), fake, create_graph=True)
    mixed = torch.autograd.grad((slope * pushed).sum(), discriminator.head.parameters(), allow_unused=True)
    assert mixed[-1] is not None
    assert mixed[-1].abs().max() > 0


@pytest.mark.parametrize("build", [small_generator, small_discriminator])
def test_normalization_can_be_chosen(build: Any) -> None:
    count = {
        kind: sum(isinstance(layer, nn.BatchNorm2d) for layer in build(normalization=kind).modules())
        for kind in ("batch", "none")
    }
    assert count["batch"] > count["none"] == 0


def test_without_batch_norm_samples_do_not_see_each_other() -> None:
    latents = torch.randn(4, 5, dtype=torch.float64)
    for kind, alone in (("none", True), ("batch", False)):
        generator = small_generator(normalization=kind).double()
        assert torch.allclose(generator(latents)[:2], generator(latents[:2]), atol=1e-12) == alone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 28}, r"image_size of 8, 16, 32, 64 \(got 28\)"),
        ({"image_size": 4}, "got 4"),
        ({"width": 0}, r"width must be an integer ≥ 1; pass one \(got 0\)"),
        ({"channels": 1.0}, "channels"),
        ({"num_classes": 0}, "num_classes"),
        ({"normalization": "layer"}, r"one of batch, none \(got 'layer'\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("build", [small_generator, small_discriminator])
def test_refused_settings(build: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(**settings)


def test_refused_latent_dim() -> None:
    with pytest.raises(ConfigurationError, match="latent_dim"):
        small_generator(latent_dim=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"is conditional; pass labels of shape \(2,\), each in 0..2"),
        (torch.zeros(2), "float32"),
        (torch.zeros(2, dtype=torch.bool), "bool"),
        (torch.zeros(3, dtype=torch.int64), r"\(got \(3,\)"),
        (torch.zeros(2, 1, dtype=torch.int64), r"\(got \(2, 1\)"),
    ],
    ids=str,
)
def test_refused_labels(labels: torch.Tensor | None, message: str) -> None:
    for network, inputs in (
        (small_generator(num_classes=3), torch.randn(2, 5)),
        (small_discriminator(num_classes=3), torch.randn(2, 1, 8, 8)),
    ):
        with pytest.raises(ConfigurationError, match=message):
            network(inputs, labels)


def test_labels_for_an_unconditional_network() -> None:
    with pytest.raises(ConfigurationError, match="this DCGANGenerator is unconditional"):
        small_generator()(torch.randn(2, 5), torch.tensor([0, 1]))

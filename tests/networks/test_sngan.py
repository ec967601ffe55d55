"""SNGANs: shapes at both sizes, labels that matter, norms of a class, and settings that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import embedding

from lightning_lead import ConfigurationError
from lightning_lead.networks import (
    ConditionalNorm,
    DCGAN32Discriminator,
    DCGAN32Generator,
    SNGANDiscriminator,
    SNGANGenerator,
)


def small(size: int = 32, classes: int | None = None, **settings: Any) -> tuple[SNGANGenerator, SNGANDiscriminator]:
    shape = {"image_size": size, "num_classes": classes}
    return SNGANGenerator(latent_dim=5, width=8, **shape, **settings), SNGANDiscriminator(width=2, **shape)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("size", [32, 48])
def test_shapes_and_gradients(size: int, classes: int | None) -> None:
    generator, discriminator = small(size, classes)
    labels = torch.tensor([0, 1, 2, 2]) if classes else None
    images = generator(torch.randn(4, 5), labels)
    assert images.shape == (4, 3, size, size)
    logits = discriminator(images, labels)
    assert logits.shape == (4,)
    logits.sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            # what is added in front of a batch norm with batch statistics is subtracted again
            assert parameter.grad.abs().max() > 0 or name.endswith("bias"), name


def test_sizes_of_the_table_for_48_pixels() -> None:
    generator, discriminator = SNGANGenerator(image_size=48), SNGANDiscriminator(image_size=48)
    assert [block.conv2.out_channels for block in generator.blocks] == [256, 128, 64]
    assert generator.stem.out_features == 6 * 6 * 512
    assert [block.conv2.out_channels for block in discriminator.blocks] == [64, 128, 256, 512, 1024]
    assert [block.pool for block in discriminator.blocks] == [True] * 4 + [False]
    seen: list[tuple[int, ...]] = []
    discriminator.blocks.register_forward_hook(lambda *run: seen.append(tuple(run[2].shape)))
    discriminator(torch.zeros(1, 3, 48, 48))
    assert seen == [(1, 1024, 3, 3)]


def test_labels_change_what_comes_out() -> None:
    generator, discriminator = small(classes=3)
    for module in generator.modules():
        if isinstance(module, ConditionalNorm):
            nn.init.normal_(module.scale.weight, 1.0, 0.5)  # all classes begin alike
    generator.eval(), discriminator.eval()
    latents, zero, one = torch.randn(2, 5), torch.tensor([0, 0]), torch.tensor([0, 1])
    images, others = generator(latents, zero), generator(latents, one)
    assert torch.equal(images[0], others[0])
    assert not torch.allclose(images[1], others[1], atol=1e-3)
    logits, other = discriminator(images, zero), discriminator(images, one)
    assert torch.equal(logits[0], other[0])
    assert (logits[1] - other[1]).abs() > 1e-4


def test_at_the_start_the_norms_of_all_classes_are_batch_norm() -> None:
    x = torch.randn(6, 4, 3, 3)
    norm = ConditionalNorm(4, 2)
    torch.testing.assert_close(norm(x, torch.tensor([0, 1, 1, 0, 1, 0])), nn.BatchNorm2d(4)(x))
    assert torch.equal(ConditionalNorm(4, 2, batch=False)(x, torch.tensor([0, 1, 1, 0, 1, 0])), x)


def test_projection_is_an_inner_product_of_code_and_features() -> None:
    discriminator = SNGANDiscriminator(width=4, num_classes=3, spectral_norm=False)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([2, 0])
    features = discriminator.blocks(images).relu().sum((2, 3))
    assert discriminator.projection is not None
    code = embedding(labels, discriminator.projection.weight)
    wanted = discriminator.head(features)[:, 0] + (code * features).sum(1)
    torch.testing.assert_close(discriminator(images, labels), wanted)


def test_bilinear_upsampling_is_smooth() -> None:
    def roughness(images: torch.Tensor) -> torch.Tensor:
        return images.diff(dim=3).abs().mean()

    latents, made = torch.randn(4, 5), []
    for upsampling in ("nearest", "bilinear"):
        torch.manual_seed(3)
        made.append(roughness(small(upsampling=upsampling)[0].eval()(latents)))
    assert made[1] < made[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 64}, r"image_size of 32 or 48 \(got 64\)"),
        ({"width": 0}, "width must be an integer ≥ 1"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"channels": True}, "channels must be"),
    ],
    ids=str,
)
@pytest.mark.parametrize("build", [SNGANGenerator, SNGANDiscriminator])
def test_refused_settings(build: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 12, "image_size": 48}, r"that 8 divides \(got 12\)"),
        ({"normalization": "layer"}, "'batch' or 'none'"),
        ({"upsampling": "bicubic"}, "'nearest' or 'bilinear'"),
    ],
    ids=str,
)
def test_refused_settings_of_the_generator(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SNGANGenerator(**settings)


def test_labels_must_fit() -> None:
    for network, inputs in zip(small(classes=3), (torch.randn(2, 5), torch.randn(2, 3, 32, 32)), strict=True):
        with pytest.raises(ConfigurationError, match=r"labels of shape \(2,\)"):
            network(inputs)
        with pytest.raises(ConfigurationError, match="int64"):
            network(inputs, torch.zeros(2))
    with pytest.raises(ConfigurationError, match="unconditional"):
        small()[0](torch.randn(2, 5), torch.tensor([0, 1]))


@pytest.mark.parametrize("build", [DCGAN32Generator, DCGAN32Discriminator])
def test_the_strided_dcgan_has_the_published_channels(build: Any) -> None:
    layers = [m for m in build().modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    channels = [layers[0].in_channels, *(layer.out_channels for layer in layers)]
    assert channels == ([100, 1024, 512, 256, 3] if build is DCGAN32Generator else [3, 256, 512, 1024, 1])
    assert {layer.kernel_size for layer in layers} == {(4, 4)}
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in build().modules())
    assert norms == (3 if build is DCGAN32Generator else 2)
    with pytest.raises(ConfigurationError, match="width must be"):
        build(width=0)

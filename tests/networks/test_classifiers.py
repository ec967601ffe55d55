"""Classifiers that are attacked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_lead import ConfigurationError
from lightning_lead.networks import PreActResNet, SmallConvClassifier


def test_the_residual_network_has_the_layers_of_the_papers() -> None:
    net = PreActResNet(width=64, blocks=2)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules()) == 17
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in net.modules()) == 3
    assert [m.conv1.out_channels for m in net.blocks] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert net.blocks(net.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 512, 4, 4)


def test_a_block_is_its_equation() -> None:
    block = PreActResNet(width=2).blocks[1].double().eval()
    x, relu = torch.randn(3, 2, 8, 8, dtype=torch.float64), nn.functional.relu
    first = relu(block.norm1(x))
    expected = block.shortcut(first) + block.conv2(relu(block.norm2(block.conv1(first))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("build", [SmallConvClassifier, PreActResNet])
@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_channels_classes_and_norms(build: Any, normalization: str) -> None:
    net = build(channels=2, width=3, num_classes=7, normalization=normalization)
    assert net(torch.randn(5, 2, 16, 16)).shape == (5, 7)
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == (normalization == "batch")


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("silu", nn.SiLU), ("softplus", nn.Softplus)])
def test_activations(name: Any, kind: type[nn.Module]) -> None:
    assert sum(isinstance(m, kind) for m in SmallConvClassifier(activation=name).modules()) == 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SmallConvClassifier(width=0), r"width must be an integer ≥ 1; pass one \(got 0\)"),
        (lambda: PreActResNet(blocks=0), r"blocks must be an integer ≥ 1"),
        (lambda: PreActResNet(normalization="layer"), "normalization must be 'batch' or 'none'"),
        (lambda: SmallConvClassifier(activation="gelu"), "activation must be 'relu'"),
    ],
)
def test_what_cannot_be_built_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()

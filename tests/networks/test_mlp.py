"""MLPs for points."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_lead import ConfigurationError
from lightning_lead.networks import MLPDiscriminator, MLPGenerator


def test_default_sizes_are_those_of_the_eight_gaussians() -> None:
    with torch.device("meta"):  # no memory for 16 million weights
        networks = MLPGenerator(), MLPDiscriminator()
    sizes = [[tuple(p.shape) for p in network.parameters() if p.ndim == 2] for network in networks]
    assert sizes[0] == [(2000, 64), (2000, 2000), (2000, 2000), (2, 2000)]
    assert sizes[1] == [(2000, 2), (2000, 2000), (2000, 2000), (1, 2000)]
    assert networks[0].latent_dim == 64


@pytest.mark.parametrize(("activation", "layer"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("softplus", nn.Softplus)])
@pytest.mark.parametrize("depth", [1, 4])
def test_depth_and_activation(activation: str, layer: type[nn.Module], depth: int) -> None:
    generator = MLPGenerator(latent_dim=3, width=6, depth=depth, out_dim=5, activation=activation)
    discriminator = MLPDiscriminator(in_dim=5, width=6, depth=depth, activation=activation)
    assert discriminator(generator(torch.randn(7, 3))).shape == (7,)
    for network in (generator, discriminator):
        assert sum(isinstance(m, layer) for m in network.modules()) == depth
        assert not isinstance(network.layers[-1], layer)  # linear output


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (MLPGenerator, {"latent_dim": 0}, r"latent_dim counts .* \(got 0\)"),
        (MLPGenerator, {"out_dim": -1}, "out_dim"),
        (MLPGenerator, {"width": 2.0}, "width"),
        (MLPDiscriminator, {"in_dim": True}, "in_dim"),
        (MLPDiscriminator, {"depth": 0}, "depth"),
        (MLPDiscriminator, {"activation": "gelu"}, r"one of relu, tanh, softplus \(got 'gelu'\)"),
    ],
)
def test_refused_settings(build: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(**settings)

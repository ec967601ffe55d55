"""Fully connected generator and discriminator for points, as in the experiment on a mixture of Gaussians.

    x = W_{k+1} φ(W_k … φ(W_1 z)),   depth k hidden layers of one width, activation φ, linear output

The default sizes (64 → 2000 → 2000 → 2000 → 2, ReLU) are those of the LEAD authors' experiment on eight Gaussians. On a
ReLU network the exact cross term of LEAD does not see the kinks; "tanh" and "softplus" are smooth.

Reference: Askari Hemmat, Mitra, Lajoie and Mitliagkas, "LEAD: Min-Max Optimization from a Physical Perspective",
TMLR 2023.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._configured import ConfiguredModule
from lightning_lead._errors import ConfigurationError

__all__ = ["MLPDiscriminator", "MLPGenerator"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}


def _layers(name: str, *, sizes: dict[str, int], width: int, depth: int, activation: str) -> nn.Sequential:
    """A stack of `depth` hidden layers between the two sizes, after a look at all numbers."""
    for setting, value in {**sizes, "width": width, "depth": depth}.items():
        if value < 1:
            raise ConfigurationError(
                f"Cannot build {name} because {setting} counts units or layers; pass an integer ≥ 1 (got {value!r})."
            )
    if activation not in _ACTIVATIONS:
        raise ConfigurationError(
            f"Cannot build {name} because its activation is unknown; pass one of {', '.join(_ACTIVATIONS)} "
            f"(got {activation!r})."
        )
    first, last = sizes.values()
    layers: list[nn.Module] = []
    for inputs in [first] + [width] * (depth - 1):
        layers += [nn.Linear(inputs, width), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(width, last))


@final
class MLPGenerator(ConfiguredModule):
    """Latents to points by an MLP with a linear output.

    Args:
        latent_dim: size of a latent, ≥ 1.
        width: units of each hidden layer, ≥ 1.
        depth: hidden layers, ≥ 1.
        out_dim: coordinates of a point, ≥ 1.
        activation: "relu", "tanh" or "softplus".

    Raises:
        ConfigurationError: a size below one, or an unknown activation.

    Example:
        >>> import torch
        >>> MLPGenerator(latent_dim=4, width=8)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    num_classes: int | None = None

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        width: int = 2000,
        depth: int = 3,
        out_dim: int = 2,
        activation: str = "relu",
    ) -> None:
        check_arguments(MLPGenerator, locals())
        super().__init__()
        self.layers = _layers(
            "MLPGenerator",
            sizes={"latent_dim": latent_dim, "out_dim": out_dim},
            width=width,
            depth=depth,
            activation=activation,
        )
        self.latent_dim = latent_dim

    def forward(self, latents: Tensor) -> Tensor:
        """Points (n, out_dim).

        Args:
            latents: (n, latent_dim).
        """
        points: Tensor = self.layers(latents)
        return points


@final
class MLPDiscriminator(ConfiguredModule):
    """Points to logits by an MLP.

    Args:
        in_dim: coordinates of a point, ≥ 1.
        width: units of each hidden layer, ≥ 1.
        depth: hidden layers, ≥ 1.
        activation: "relu", "tanh" or "softplus".

    Raises:
        ConfigurationError: a size below one, or an unknown activation.

    Example:
        >>> import torch
        >>> MLPDiscriminator(width=8)(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    num_classes: int | None = None

    def __init__(
        self,
        *,
        in_dim: int = 2,
        width: int = 2000,
        depth: int = 3,
        activation: str = "relu",
    ) -> None:
        check_arguments(MLPDiscriminator, locals())
        super().__init__()
        self.layers = _layers(
            "MLPDiscriminator", sizes={"in_dim": in_dim, "outputs": 1}, width=width, depth=depth, activation=activation
        )

    def forward(self, points: Tensor) -> Tensor:
        """Logits (n,); positive means "real".

        Args:
            points: (n, in_dim).
        """
        logits: Tensor = self.layers(points).squeeze(1)
        return logits

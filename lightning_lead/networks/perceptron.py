"""A fully connected network for inputs of any shape: the features, classifiers and discriminators of small studies.

    x flattened,   h = φ(W_k … φ(W_1 x)),   W_{k+1} h, or h alone as features

"tanh" and "softplus" are smooth; on a ReLU network second derivatives do not see the kinks.
"""

from __future__ import annotations

import itertools
from typing import final

from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._configured import ConfiguredModule
from lightning_lead._errors import ConfigurationError

__all__ = ["MLP"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}


@final
class MLP(ConfiguredModule):
    """Inputs of any shape, flattened, to outputs by hidden layers of one width.

    Args:
        in_features: numbers in an input, ≥ 1.
        out_features: numbers in an output, ≥ 1; None for the last hidden layer itself, as features.
        width: units of each hidden layer, ≥ 1.
        depth: hidden layers, ≥ 0; ≥ 1 without `out_features`. With 0 it is linear.
        activation: "relu", "tanh" or "softplus".
        bias: of all layers.

    Raises:
        ConfigurationError: a size out of its range, or an unknown activation.

    Example:
        >>> import torch
        >>> MLP(64, 10, width=32)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        width: int = 64,
        depth: int = 1,
        activation: str = "relu",
        bias: bool = True,
    ) -> None:
        check_arguments(MLP, locals())
        super().__init__()
        check_positive(in_features=in_features, out_features=out_features, width=width)
        if depth < (out_features is None):
            raise ConfigurationError(
                f"Cannot build MLP because depth counts its hidden layers; pass an integer ≥ "
                f"{int(out_features is None)} (got {depth})"
            )
        if activation not in _ACTIVATIONS:
            raise ConfigurationError(
                f"Cannot build MLP because its activation is unknown; pass one of {', '.join(_ACTIVATIONS)} "
                f"(got {activation!r})"
            )
        sizes, layers = [in_features, *[width] * depth], list[nn.Module]()
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after, bias=bias), _ACTIVATIONS[activation]()]
        if out_features is not None:
            layers.append(nn.Linear(sizes[-1], out_features, bias=bias))
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (n, out_features), or features (n, width).

        Args:
            inputs: (n, ...).
        """
        outputs: Tensor = self.layers(inputs.flatten(1))
        return outputs

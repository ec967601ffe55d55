"""The feature network of the scores: anybody's module, so everything it promises is checked."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead._hashing import tensors_hash

__all__ = ["FeatureNetwork", "find_extractor"]


def find_extractor(given: nn.Module | str | None) -> nn.Module:
    """The feature network that was given, or the one of that name; "inception" for None."""
    if given is not None and not isinstance(given, str):
        return given
    # by the package, so that a replaced feature_network is found
    network: nn.Module = import_module("lightning_lead.features").feature_network(given or "inception")
    return network


class FeatureNetwork:
    """Bytes in, float32 features and perhaps logits out; frozen, in eval mode, and no part of any other module.

    `network` is as `GenerativeMetrics(extractor=...)` describes it; it must say how wide its features are.
    """

    def __init__(self, network: nn.Module) -> None:
        width = getattr(network, "num_features", None)
        if not isinstance(network, nn.Module) or not isinstance(width, int) or width < 1:
            raise ConfigurationError(
                "Cannot use the extractor because the width of its features is unknown; pass a torch.nn.Module with "
                f"an integer attribute num_features ≥ 1 (got {type(network).__name__}, num_features={width!r})"
            )
        self.network = network.eval().requires_grad_(False)
        self.num_features = width
        self.name = type(network).__name__
        self.classifies = callable(getattr(network, "classify", None))
        self.resize = str(getattr(network, "resize", "by the extractor, if at all"))
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> None:
        """Move the network, and from now on its inputs."""
        self._device = torch.device(device)
        self.network.to(self._device)

    def fingerprint(self) -> str:
        """The network's own `fingerprint`, or else the sha256 of its weights and buffers."""
        own = getattr(self.network, "fingerprint", None)
        return own if isinstance(own, str) else tensors_hash(self.network.state_dict())

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (n, num_features) in float32, and logits (n, K) if the network classifies, of uint8 (n, C, H, W).

        What fails in the network is a ConfigurationError, unless memory ran out.
        """
        try:
            features = self.network(images.to(self._device))
        except torch.OutOfMemoryError as error:  # a RuntimeError too, but nothing is wrong with the network
            raise torch.OutOfMemoryError(
                f"Cannot extract features because {self.name} needs more memory for {len(images)} images at once than "
                f"{self._device} has left; lower batch_size of the scores (got {error})"
            ) from error
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"Cannot extract features because {self.name} fails on bytes of shape {tuple(images.shape)}; "
                f"wrap it so that it takes them (got {error})"
            ) from error
        shape = (len(images), self.num_features)
        if not isinstance(features, Tensor) or tuple(features.shape) != shape or not features.is_floating_point():
            raise ConfigurationError(
                f"Cannot use the features because num_features={self.num_features} promises floats of shape {shape}; "
                f"correct num_features, or flatten the features (got {_what(features)})"
            )
        if not self.classifies:
            return features.float(), None
        logits = self.network.classify(features)  # type: ignore[operator]
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
            raise ConfigurationError(
                "Cannot use the classifier because classify(features) must return logits (n, K) with K ≥ 2; "
                f"correct it (got {_what(logits)})"
            )
        return features.float(), logits


def _what(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__

"""Any classification network of torchvision as a feature network: what its last linear layer sees.

    uint8 pixels ─the weights' own preprocessing─→ backbone → F features ─last linear layer─→ K logits

A distance in these features compares with other distances in the same features alone; none of them is "the FID" of a
paper. They are of use where Inception says little: other domains, or a second opinion that the first network does not
share.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError, first_line
from lightning_lead.features._fingerprints import weights_sha256

__all__ = ["Framing", "TorchvisionFeatures"]

Framing = Literal["preset", "whole"]
_INITIALISED_SLOWLY = ("googlenet", "inception_v3")  # and rescaling their input by a setting of the network


@final
class TorchvisionFeatures(nn.Module):
    """A classification network of torchvision; uint8 in, the input of its last linear layer out.

    It is frozen and never leaves eval mode. Features are float32 whatever runs around it.

    Args:
        name: as `torchvision.models.list_models(module=torchvision.models)` lists it.
        weights: "DEFAULT" or another of torchvision's names for this network's weights, which come from torch hub's
            cache or are downloaded; or the path of a saved state dict; or None: random weights.
        resize: "preset": as the weights were evaluated, the middle of the resized image; "whole": the whole image,
            resized to the same square. A file's, and random, weights go with the preset of "DEFAULT".

    Attributes:
        num_features: F.
        num_classes: K.

    Raises:
        ConfigurationError: an unknown name, resize or file; weights that cannot be had; a network that does not end in
            a linear layer.

    Example:
        >>> network = TorchvisionFeatures("resnet18", weights=None)
        >>> features = network(torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8))
        >>> features.shape, network.classify(features).shape
        (torch.Size([1, 512]), torch.Size([1, 1000]))
    """

    num_features: int
    num_classes: int

    def __init__(self, name: str, *, weights: str | Path | None = "DEFAULT", resize: Framing = "preset") -> None:
        check_arguments(TorchvisionFeatures, locals(), but=("resize",))
        super().__init__()
        from torchvision import models

        names = models.list_models(module=models)
        if name not in names:
            close = difflib.get_close_matches(name, names) or names[:3]
            raise ConfigurationError(
                "Cannot build the backbone because torchvision has no classification network of this name; take "
                f"{' or '.join(close)}, or another of torchvision.models.list_models() (got {name!r})."
            )
        if resize not in get_args(Framing):
            raise ConfigurationError(
                "Cannot build the backbone because this resize is unknown; take 'preset', as the weights were "
                f"evaluated, or 'whole', without cutting the edges off (got {resize!r})."
            )
        known = models.get_model_weights(name)
        entry = known[weights] if isinstance(weights, str) and weights in known.__members__ else None
        self.name, self.resize = name, resize
        self.preset = (entry or known["DEFAULT"]).transforms()
        self.body = _build(name, weights, entry)
        self.fc = _take_off_last_linear(self.body, name)
        self.num_features, self.num_classes = self.fc.in_features, self.fc.out_features
        self.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all weights, then the network's name and the resize."""
        return f"{weights_sha256(self)} torchvision:{self.name} resize={self.resize}"

    def train(self, mode: bool = True) -> TorchvisionFeatures:
        """Stay in eval mode: dropout and a batch's own normalisation would change every score."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features.

        Args:
            images: (n, 3, H, W) or, grey, (n, 1, H, W); uint8 in 0..255.

        Returns:
            (n, num_features), float32.

        Raises:
            ConfigurationError: images of another type or shape, or features that are no vectors.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ConfigurationError(
                f"Cannot compute {self.name}'s features because it reads uint8 pixels of shape (n, 3, H, W) or (n, 1, "
                "H, W); turn floats in [−1, 1] into pixels with ((x + 1) * 127.5).round().to(torch.uint8) "
                f"(got {tuple(images.shape)} of {images.dtype})."
            )
        with torch.autocast(images.device.type, enabled=False):
            features: Tensor = self.body(self._prepare(images.expand(-1, 3, -1, -1)))
        if features.shape != (len(images), self.num_features):
            raise ConfigurationError(
                f"Cannot use {self.name} because its last linear layer does not see one vector per image; take another "
                f"backbone (got {tuple(features.shape)} for {len(images)} images)."
            )
        return features

    def _prepare(self, images: Tensor) -> Tensor:
        """(n, 3, side, side), normalised as the weights want it."""
        prepared: Tensor
        if self.resize == "preset":
            prepared = self.preset(images)
            return prepared
        from torchvision.transforms.functional import convert_image_dtype, normalize, resize

        side = [*self.preset.crop_size, *self.preset.crop_size]
        images = resize(images, side, interpolation=self.preset.interpolation, antialias=self.preset.antialias)
        prepared = normalize(convert_image_dtype(images, torch.float), self.preset.mean, self.preset.std)
        return prepared

    @property
    def classify(self) -> Callable[[Tensor], Tensor]:
        """Function from features (n, F) to logits (n, K)."""
        return self.fc


def _build(name: str, weights: str | Path | None, entry: Any) -> nn.Module:
    """The network with its classifier still on."""
    from torchvision import models

    if entry is not None:
        try:
            network: nn.Module = models.get_model(name, weights=entry)
        except OSError as error:  # urllib's, no network among them
            raise ConfigurationError(
                f"Cannot load {name} because its weights are neither in torch hub's cache nor to be had; fetch "
                f"{entry.url} elsewhere and pass weights='its path' (got {error})."
            ) from error
        return network
    settings = {"init_weights": False, "transform_input": True} if name in _INITIALISED_SLOWLY else {}
    network = models.get_model(name, weights=None, **settings)
    if weights is None:
        return network
    members = ", ".join(models.get_model_weights(name).__members__)
    if not Path(weights).is_file():
        raise ConfigurationError(
            f"Cannot load {name} because there is neither a file nor a set of weights of this name; take one of "
            f"{members}, or the path of a saved state dict (got {str(weights)!r})."
        )
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigurationError(
            f"Cannot load {name} because the file does not hold its state dict; save one with torch.save, or take one "
            f"of {members} (got {weights}: {first_line(error)})."
        ) from error
    return network


def _take_off_last_linear(network: nn.Module, name: str) -> nn.Linear:
    """The layer that makes the logits; an identity takes its place."""
    *_, (path, last) = ((path, module) for path, module in network.named_modules() if not list(module.children()))
    if not isinstance(last, nn.Linear):
        raise ConfigurationError(
            f"Cannot take features from {name} because it does not end in a linear layer; take a backbone that does, "
            f"such as resnet18 (got {type(last).__name__} at {path})."
        )
    network.set_submodule(path, nn.Identity())
    return last

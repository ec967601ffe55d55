"""The feature network of the digits: a small classifier whose last hidden layer is what FID and KID compare.

    uint8 pixels p ─mean over blocks, to 8×8─→ p/127.5 − 1 → conv3 @ 16 → conv3 ÷2 @ 32 → conv3 ÷2 @ 64 → flatten
    → 64 features ─linear→ 10 logits

SiLU between the layers: under a ReLU eleven of the 64 features were zero for every digit. Inception sees nothing useful
in 8×8 pixels, so the digits get a network of their own. Its weights ship with the package and are made by
`examples/train_digits_classifier.py`. A distance in these features compares with other distances in the *same* features
only: write the `fingerprint` beside the number.
"""

from __future__ import annotations

from importlib.resources import files
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_lead._errors import ConfigurationError
from lightning_lead.features._fingerprints import weights_sha256

__all__ = ["DigitsClassifier"]

_SHAPES = tuple((1, side, side) for side in (8, 16, 32))  # as the data module makes them


@final
class DigitsClassifier(nn.Module):
    """Classifier of grey digits, uint8 as the image metrics pass them; 16×16 and 32×32 are averaged down to 8×8.

    `DigitsClassifier()` has random weights, `DigitsClassifier.pretrained()` the shipped ones.

    Attributes:
        num_features: length of a feature vector, 64.
        num_classes: 10.

    Example:
        >>> from lightning_lead.data import DigitsDataModule
        >>> digits = DigitsDataModule()
        >>> pixels = ((digits.reference_images() + 1) * 127.5).round().to(torch.uint8)
        >>> network = DigitsClassifier.pretrained()
        >>> features = network(pixels)
        >>> features.shape
        torch.Size([1797, 64])
        >>> (network.classify(features).argmax(1) == digits.reference_labels()).double().mean().item() > 0.97
        True
    """

    num_features: int = 64
    num_classes: int = 10

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 2 * 2, self.num_features),
            nn.SiLU(),
        )
        self.head = nn.Linear(self.num_features, self.num_classes)

    @classmethod
    def pretrained(cls) -> DigitsClassifier:
        """The shipped network: trained, frozen, in eval mode, on the CPU."""
        network = cls()
        with (files("lightning_lead.features") / "weights" / "digits_classifier.pt").open("rb") as file:
            network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        return network.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all weights, names included, as 64 hexadecimal digits."""
        return weights_sha256(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 64).

        Args:
            images: (n, 1, s, s) uint8 in 0..255, s one of 8, 16, 32.

        Raises:
            ConfigurationError: images of another type or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] not in _SHAPES:
            raise ConfigurationError(
                "Cannot classify the images because this network reads uint8 pixels of shape (n, 1, s, s), s = 8, 16 "
                "or 32; turn floats in [−1, 1] into pixels with ((x + 1) * 127.5).round().to(torch.uint8) "
                f"(got {tuple(images.shape)} of {images.dtype})."
            )
        return self.features_of(adaptive_avg_pool2d(images.to(self.head.weight.dtype), 8) / 127.5 - 1)

    def features_of(self, images: Tensor) -> Tensor:
        """Features of float images, differentiable; training uses this.

        Args:
            images: (n, 1, 8, 8), in [−1, 1].
        """
        features: Tensor = self.body(images)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Logits of the ten digits.

        Args:
            features: (n, 64), as `forward` returns them.

        Returns:
            (n, 10).
        """
        logits: Tensor = self.head(features)
        return logits

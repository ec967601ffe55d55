"""The feature network of the stacked digits: the classifier of digits on each channel.

features (x₁, x₂, x₃) → (f(x₁), f(x₂), f(x₃)),   log p(100a + 10b + c) = log p(a|x₁) + log p(b|x₂) + log p(c|x₃)
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.features.digits_classifier import DigitsClassifier

__all__ = ["StackedDigitsClassifier"]


@final
class StackedDigitsClassifier(nn.Module):
    """Classifier of three digits as channels, uint8, into 1,000 classes; its 192 features are those of each digit.

    Args:
        digits: the classifier of one digit; default the shipped one.

    Attributes:
        num_features: 192.
        num_classes: 1,000.

    Example:
        >>> import torch
        >>> network = StackedDigitsClassifier()
        >>> features = network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
        >>> features.shape, network.classify(features).exp().sum(1).round(decimals=4)
        (torch.Size([2, 192]), tensor([1., 1.]))
    """

    num_features: int = 3 * DigitsClassifier.num_features
    num_classes: int = 1000

    def __init__(self, digits: DigitsClassifier | None = None) -> None:
        check_arguments(StackedDigitsClassifier, locals())
        super().__init__()
        self.digits = DigitsClassifier.pretrained() if digits is None else digits

    @property
    def fingerprint(self) -> str:
        """That of the classifier of one digit, marked as stacked."""
        return f"stacked-{self.digits.fingerprint}"

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 192).

        Args:
            images: (n, 3, s, s) uint8 in 0..255, s one of 8, 16, 32.

        Raises:
            ConfigurationError: images of another type or shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigurationError(
                "Cannot classify the images because this network reads three digits as the channels of an image; pass "
                f"uint8 pixels of shape (n, 3, s, s) (got {tuple(images.shape)} of {images.dtype})."
            )
        features: Tensor = self.digits(images.flatten(0, 1).unsqueeze(1))
        return features.reshape(len(images), self.num_features)

    def classify(self, features: Tensor) -> Tensor:
        """Return log-probabilities of the 1,000 classes.

        Args:
            features: (n, 192), as `forward` returns them.

        Returns:
            (n, 1000).
        """
        logits = self.digits.classify(features.reshape(-1, DigitsClassifier.num_features))
        a, b, c = logits.log_softmax(1).reshape(len(features), 3, -1).unbind(1)
        return (a[:, :, None, None] + b[:, None, :, None] + c[:, None, None, :]).flatten(1)

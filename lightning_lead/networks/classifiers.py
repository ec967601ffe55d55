"""Classifiers for adversarial training: a small convolutional network, and pre-activation ResNets.

    small      conv3 @ w → conv3 ÷2 @ 2w → conv3 ÷2 @ 4w, each with norm and activation → mean over pixels → logits
    ResNet     conv3 @ w → stages of blocks @ w, 2w ÷2, 4w ÷2, 8w ÷2 → norm, ReLU, mean over pixels → logits
    block      x + conv3(ReLU(norm(conv3(ReLU(norm x))))), the first ReLU shared by a 1×1 shortcut where widths differ

Reference: He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, figure 1b. With width 64
and two blocks per stage it is the PreActResNet-18 of many papers on adversarial training.
"""

from __future__ import annotations

from typing import Literal, final

from torch import Tensor, nn
from torch.nn.functional import relu

from lightning_lead._arguments import check_arguments
from lightning_lead._configured import ConfiguredModule
from lightning_lead._errors import ConfigurationError

__all__ = ["PreActResNet", "SmallConvClassifier"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "softplus": nn.Softplus}


def _check(name: str, normalization: str, **counts: int) -> None:
    for setting, value in counts.items():
        if value < 1:
            raise ConfigurationError(
                f"Cannot build {name} because {setting} must be an integer ≥ 1; pass one (got {value!r})"
            )
    if normalization not in ("batch", "none"):
        raise ConfigurationError(
            f"Cannot build {name} because its normalization is unknown; pass 'batch' or 'none' (got {normalization!r})"
        )


def _norm(normalization: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if normalization == "batch" else nn.Identity()


@final
class SmallConvClassifier(ConfiguredModule):
    """Three convolutions and a linear layer; 8×8 digits take 24,000 weights at the default width.

    Args:
        channels: of an image, ≥ 1.
        width: channels of the first convolution, ≥ 1.
        num_classes: number of logits, ≥ 1.
        normalization: "batch" or "none".
        activation: "relu", "silu" or "softplus"; the last two are smooth, so that exact cross terms see all of them.

    Raises:
        ConfigurationError: a size below one, or an unknown normalization or activation.

    Example:
        >>> import torch
        >>> SmallConvClassifier()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        width: int = 16,
        num_classes: int = 10,
        normalization: Literal["batch", "none"] = "batch",
        activation: Literal["relu", "silu", "softplus"] = "relu",
    ) -> None:
        check_arguments(SmallConvClassifier, locals())
        _check("SmallConvClassifier", normalization, channels=channels, width=width, num_classes=num_classes)
        if activation not in _ACTIVATIONS:
            raise ConfigurationError(
                "Cannot build SmallConvClassifier because its activation is unknown; pass one of "
                f"{', '.join(_ACTIVATIONS)} (got {activation!r})"
            )
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((channels, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=normalization == "none"),
                _norm(normalization, outputs),
                _ACTIVATIONS[activation](),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes).

        Args:
            images: (n, channels, height, width).
        """
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


class _PreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, normalization: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(normalization, inputs), _norm(normalization, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        differs = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if differs else None

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(out)
        residual: Tensor = self.conv2(relu(self.norm2(self.conv1(out))))
        return kept + residual


@final
class PreActResNet(ConfiguredModule):
    """Residual network with norm and ReLU before each convolution, for images of 16×16 pixels or more.

    Args:
        channels: of an image, ≥ 1.
        width: channels of the first stage, ≥ 1; 64 in the papers.
        blocks: per stage, ≥ 1; 2 for ResNet-18.
        num_classes: number of logits, ≥ 1.
        normalization: "batch" or "none".

    Raises:
        ConfigurationError: a size below one, or an unknown normalization.

    Example:
        >>> sum(p.numel() for p in PreActResNet(width=64, blocks=2).parameters())
        11172170
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 16,
        blocks: int = 1,
        num_classes: int = 10,
        normalization: Literal["batch", "none"] = "batch",
    ) -> None:
        check_arguments(PreActResNet, locals())
        counts = {"channels": channels, "width": width, "blocks": blocks, "num_classes": num_classes}
        _check("PreActResNet", normalization, **counts)
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        layers, inputs = list[nn.Module](), width
        for stage in range(4):
            for block in range(blocks):
                outputs, stride = width * 2**stage, 2 if stage and not block else 1
                layers.append(_PreActBlock(inputs, outputs, stride, normalization))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.norm = _norm(normalization, inputs)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes).

        Args:
            images: (n, channels, height, width).
        """
        logits: Tensor = self.head(relu(self.norm(self.blocks(self.stem(images)))).mean((2, 3)))
        return logits

"""Feature networks by name, as YAML and the command line can write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightning_lead._errors import ConfigurationError
from lightning_lead.features.backbones import TorchvisionFeatures
from lightning_lead.features.digits_classifier import DigitsClassifier
from lightning_lead.features.inception import Inception2015
from lightning_lead.features.stacked_digits import StackedDigitsClassifier

__all__ = ["feature_network"]


# what may follow "inception:", separated by commas
_OPTIONS: dict[str, dict[str, Any]] = {
    "bilinear": {"resize": "bilinear"},
    "channels_last": {"channels_last": True},
    "float16": {"dtype": torch.float16},
}


def feature_network(spec: str | nn.Module) -> nn.Module:
    """The network that a name stands for, with its weights; a module is handed back as it is.

    Args:
        spec: "inception": `Inception2015.pretrained()`, or with settings: "inception:bilinear,channels_last";
            "digits": `DigitsClassifier.pretrained()`; "stacked_digits": `StackedDigitsClassifier()`;
            "torchvision:NAME": `TorchvisionFeatures(NAME)`; or a module.

    Raises:
        ConfigurationError: another name, or weights that are not on this machine and cannot be had.

    Example:
        >>> type(feature_network("digits")).__name__
        'DigitsClassifier'
    """
    if isinstance(spec, nn.Module):
        return spec
    kind, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    options = [option for option in rest.split(",") if option]
    if kind == "torchvision" and rest:
        return TorchvisionFeatures(rest)
    if kind == "inception" and set(options) <= _OPTIONS.keys():
        settings: dict[str, Any] = {}
        for option in options:
            settings |= _OPTIONS[option]
        return Inception2015.pretrained(**settings)
    if spec == "digits":
        return DigitsClassifier.pretrained()
    if spec == "stacked_digits":
        return StackedDigitsClassifier()
    raise ConfigurationError(
        "Cannot build the feature network because no extractor goes by this name; take 'inception', alone or with some "
        f"of its settings as in 'inception:{','.join(_OPTIONS)}', 'digits', 'stacked_digits', 'torchvision:resnet18' "
        f"or another of torchvision's, or pass a torch.nn.Module (got {spec!r})."
    )

"""Feature networks by name, as YAML and the command line can write them."""

from __future__ import annotations

from torch import nn

from lightning_lead._errors import ConfigurationError
from lightning_lead.networks.backbones import TorchvisionFeatures
from lightning_lead.networks.digits_classifier import DigitsClassifier
from lightning_lead.networks.inception import Inception2015

__all__ = ["feature_network"]


def feature_network(spec: str | nn.Module) -> nn.Module:
    """The network that a name stands for, with its weights; a module is handed back as it is.

    Args:
        spec: "inception": `Inception2015.pretrained()`; "digits": `DigitsClassifier.pretrained()`; "torchvision:NAME":
            `TorchvisionFeatures(NAME)`; or a module.

    Raises:
        ConfigurationError: another name, or weights that are not on this machine and cannot be had.

    Example:
        >>> type(feature_network("digits")).__name__
        'DigitsClassifier'
    """
    if isinstance(spec, nn.Module):
        return spec
    kind, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if kind == "torchvision" and name:
        return TorchvisionFeatures(name)
    if spec == "inception":
        return Inception2015.pretrained()
    if spec == "digits":
        return DigitsClassifier.pretrained()
    raise ConfigurationError(
        "Cannot build the feature network because nothing goes by this name; take 'inception', 'digits', "
        f"'torchvision:resnet18' (or another of torchvision's), or pass a torch.nn.Module (got {spec!r})."
    )

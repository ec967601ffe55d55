"""Networks for the recipes: MLPs for points, DCGANs and ResNets for images."""

import warnings
from importlib import import_module
from typing import Any

from lightning_lead.networks._labels import ConditionalNorm
from lightning_lead.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_lead.networks.dcgan32 import DCGAN32Discriminator, DCGAN32Generator
from lightning_lead.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_lead.networks.porting import port_generator
from lightning_lead.networks.sngan import SNGANDiscriminator, SNGANGenerator

__all__ = [
    "MLPGenerator",
    "MLPDiscriminator",
    "DCGANGenerator",
    "DCGANDiscriminator",
    "DCGAN32Generator",
    "DCGAN32Discriminator",
    "SNGANGenerator",
    "SNGANDiscriminator",
    "ConditionalNorm",
    "port_generator",
]

_MOVED = ("DigitsClassifier", "Inception2015", "TorchvisionFeatures", "feature_network")


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        warnings.warn(
            f"lightning_lead.networks.{name} has moved; import it from lightning_lead.features. The old place works "
            "for one minor version.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module("lightning_lead.features"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

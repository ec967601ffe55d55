"""Networks for the recipes: MLPs for points, DCGANs and ResNets for images, features and classifiers."""

from lightning_lead._configured import ConfiguredModule
from lightning_lead._lazy import renamed_attribute
from lightning_lead.networks._labels import ConditionalNorm
from lightning_lead.networks.classifiers import PreActResNet, SmallConvClassifier
from lightning_lead.networks.conv_features import ConvFeatures
from lightning_lead.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_lead.networks.dcgan32 import DCGAN32Discriminator, DCGAN32Generator
from lightning_lead.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_lead.networks.perceptron import MLP
from lightning_lead.networks.porting import port_generator
from lightning_lead.networks.sngan import SNGANDiscriminator, SNGANGenerator

__all__ = [
    "MLP",
    "ConvFeatures",
    "MLPGenerator",
    "MLPDiscriminator",
    "DCGANGenerator",
    "DCGANDiscriminator",
    "DCGAN32Generator",
    "DCGAN32Discriminator",
    "SNGANGenerator",
    "SNGANDiscriminator",
    "ConditionalNorm",
    "ConfiguredModule",
    "SmallConvClassifier",
    "PreActResNet",
    "port_generator",
]

_MOVED = ("DigitsClassifier", "Inception2015", "TorchvisionFeatures", "feature_network")
__getattr__ = renamed_attribute(
    __name__, {name: f"lightning_lead.features:{name}" for name in _MOVED}, since="0.2", until="0.3"
)

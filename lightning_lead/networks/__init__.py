"""Networks for the recipes: MLPs for points, DCGANs and ResNets for images; and feature networks for their scores."""

from lightning_lead.networks.backbones import TorchvisionFeatures
from lightning_lead.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_lead.networks.dcgan32 import DCGAN32Discriminator, DCGAN32Generator
from lightning_lead.networks.digits_classifier import DigitsClassifier
from lightning_lead.networks.feature_networks import feature_network
from lightning_lead.networks.inception import Inception2015
from lightning_lead.networks.labels import ConditionalNorm
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
    "DigitsClassifier",
    "Inception2015",
    "TorchvisionFeatures",
    "feature_network",
    "port_generator",
]

"""Networks for the recipes: MLPs for points, DCGANs and ResNets for images, and the digits' feature network."""

from lightning_lead.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_lead.networks.dcgan32 import DCGAN32Discriminator, DCGAN32Generator
from lightning_lead.networks.digits_classifier import DigitsClassifier
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
    "port_generator",
]

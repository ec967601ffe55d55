"""Networks for the recipes: MLPs for points, DCGANs for images, and the feature network of the digits."""

from lightning_lead.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_lead.networks.digits_classifier import DigitsClassifier
from lightning_lead.networks.mlp import MLPDiscriminator, MLPGenerator

__all__ = ["MLPGenerator", "MLPDiscriminator", "DCGANGenerator", "DCGANDiscriminator", "DigitsClassifier"]

"""Feature networks: what FID, KID, precision and recall see images through."""

from lightning_lead.features.backbones import TorchvisionFeatures
from lightning_lead.features.by_name import feature_network
from lightning_lead.features.digits_classifier import DigitsClassifier
from lightning_lead.features.inception import Inception2015
from lightning_lead.features.stacked_digits import StackedDigitsClassifier

__all__ = ["DigitsClassifier", "Inception2015", "StackedDigitsClassifier", "TorchvisionFeatures", "feature_network"]

"""Scores of images against images; they know of no generator, and of no Trainer. See `metrics.base` for how to add one.

A score that is exported here can be named by its `keywords` in the `metrics` of `GenerativeMetrics` and of
`lightning-lead evaluate`, or be given as an object with settings of its own.
"""

from lightning_lead._distributed import combine, shared_blocks
from lightning_lead.metrics._protocol import protocol_table
from lightning_lead.metrics.base import ImageSet, Moments, Score
from lightning_lead.metrics.classifier import ClassifierScore
from lightning_lead.metrics.fid import FID
from lightning_lead.metrics.kid import KID
from lightning_lead.metrics.memorization import Memorization
from lightning_lead.metrics.mind import MIND
from lightning_lead.metrics.modes import Modes
from lightning_lead.metrics.prdc import PRDC
from lightning_lead.metrics.reference import ReferenceImages
from lightning_lead.metrics.scorer import Measurement, Scorer

__all__ = [
    "FID",
    "KID",
    "MIND",
    "PRDC",
    "ClassifierScore",
    "ImageSet",
    "Measurement",
    "Memorization",
    "Modes",
    "Moments",
    "ReferenceImages",
    "Score",
    "Scorer",
    "combine",
    "protocol_table",
    "shared_blocks",
]

"""Scores of a checkpoint or of a folder of images, with the protocol of each. `lightning-lead evaluate --help`."""

from lightning_lead.evaluate.command import differences, evaluate
from lightning_lead.evaluate.folder import PNGFolder
from lightning_lead.evaluate.measure import Evaluation, evaluate_checkpoint, evaluate_images

__all__ = ["Evaluation", "PNGFolder", "differences", "evaluate", "evaluate_checkpoint", "evaluate_images"]

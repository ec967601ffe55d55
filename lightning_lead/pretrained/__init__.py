"""Trained generators: from their files to networks, and to samples."""

from lightning_lead.pretrained.load import load_generator
from lightning_lead.pretrained.sampling import draw_samples

__all__ = ["draw_samples", "load_generator"]

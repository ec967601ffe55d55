"""Checkpoints: the game in them, and the plugins by which the Trainer writes them whole and compact."""

from lightning_lead.checkpoints.compact import CompactCheckpointIO

__all__ = ["CompactCheckpointIO"]

"""Checkpoints: what they say of the game, and how they are packed, cut into parts and written."""

from lightning_lead.checkpoints.compact import CompactCheckpointIO

__all__ = ["CompactCheckpointIO"]

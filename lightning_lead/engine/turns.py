"""Turns of a game step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Turn"]


class Turn(NamedTuple):
    """One move: the players that make it, and its micro-batches, of equal sizes, one per round of accumulation.

    Example:
        >>> import torch
        >>> Turn(("x",), [torch.zeros(4)], 4).players
        ('x',)
    """

    players: tuple[str, ...]
    micro_batches: Sequence[Any]
    batch_size: int

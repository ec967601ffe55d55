"""Types that every floor of the package shares.

A *vector* is one tensor per parameter of a player; a *point* gives a vector to each player by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

__all__ = ["CrossForm", "Play", "Point", "Vector"]

Vector = tuple[Tensor, ...]
Point = Mapping[str, Vector]
CrossForm = Literal["opponent", "own", "difference"]
Play = Literal["alternating", "simultaneous"]

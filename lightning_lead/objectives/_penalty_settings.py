"""Checks of the settings that penalties of either player share."""

from __future__ import annotations

import math
from typing import Any

from lightning_lead._errors import ConfigurationError

__all__ = ["check_decay", "check_every", "check_weight"]


def check_weight(penalty: Any, *, of: str = "discriminator") -> None:
    """Refuse a `weight` that is no finite number ≥ 0, and an `every` that is no integer ≥ 1."""
    weight = penalty.weight
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise ConfigurationError(
            f"Cannot use {type(penalty).__name__}(weight=...) because it must be a finite number ≥ 0 (a negative one "
            f"would reward steepness); try 10.0 (got {weight!r})"
        )
    check_every(penalty, of=of)


def check_every(penalty: Any, *, of: str = "discriminator") -> None:
    """Refuse an `every` that is no integer ≥ 1."""
    every = penalty.every
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigurationError(
            f"Cannot use {type(penalty).__name__} because every= counts updates of the {of}; let it be an integer ≥ 1, "
            f"as 16 (got {every!r})"
        )


def check_decay(decay: float) -> None:
    """Refuse a decay of averages that is no number in [0, 1)."""
    usable = isinstance(decay, (int, float)) and not isinstance(decay, bool) and math.isfinite(decay)
    if not usable or not 0 <= decay < 1:
        raise ConfigurationError(f"Cannot average with decay={decay!r}; pass a number in [0, 1), as 0.99")

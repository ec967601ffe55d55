"""Checks of arguments that several rooms take."""

from __future__ import annotations

import math

from lightning_lead._errors import ConfigurationError

__all__ = ["check_positive", "check_range"]


def check_positive(**counts: int | None) -> None:
    """Refuse counts that are not integers ≥ 1, by the first wrong one's name; None passes."""
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigurationError(f"Cannot use {name} because it must be an integer ≥ 1 (got {value!r})")


def check_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """Return the range as two floats, low < high, or raise a ConfigurationError."""
    try:
        low, high = (float(v) for v in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigurationError(
            f"Cannot use value_range because it must be two finite numbers (low, high) with low < high "
            f"(got {value_range!r})"
        )
    return low, high

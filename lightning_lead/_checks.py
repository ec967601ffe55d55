"""Checks of arguments that several rooms take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeGuard

from lightning_lead._errors import ConfigurationError

__all__ = [
    "check_clip",
    "check_count",
    "check_positive",
    "check_range",
    "check_rates",
    "counted",
    "is_class",
    "require_number",
]


def is_class(value: Any) -> TypeGuard[type]:
    """Return True for a class; Python 3.10 takes `dict[str, Any]` for one as well.

    Example:
        >>> is_class(dict), is_class(dict[str, int])
        (True, False)
    """
    return issubclass(type(value), type)


def check_positive(**counts: int | None) -> None:
    """Refuse counts that are not integers ≥ 1, by the first wrong one's name; None passes."""
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigurationError(f"Cannot use {name} because it must be an integer ≥ 1 (got {value!r})")


def check_clip(clip: float | None) -> None:
    """Refuse a largest norm that is not finite and > 0; None passes."""
    if clip is not None and not 0 < clip < math.inf:
        raise ConfigurationError(f"Cannot clip because clip must be a finite norm > 0, or None (got {clip!r})")


def check_rates(**rates: float) -> None:
    """Refuse learning rates that are not finite and > 0, by the argument's name."""
    for name, rate in rates.items():
        if not 0 < rate < math.inf:
            raise ConfigurationError(f"Cannot learn because {name} must be finite and > 0 (got {rate!r})")


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


def require_number(name: str, value: Any, *, low: float, high: float, why: str, closed: bool = True) -> float:
    """A hyperparameter as a float, if it is a number in its range.

    Args:
        name: of the argument.
        value: as it was passed.
        low: smallest value.
        high: largest value.
        why: what the range is good for; follows "because".
        closed: whether the ends belong to the range; infinity never does.

    Raises:
        ConfigurationError: no number, or out of range.

    Example:
        >>> require_number("beta", 0.5, low=-1, high=1, why="momentum must decay", closed=False)
        0.5
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    inside = number and (low <= value <= high if closed else low < value < high)
    if not inside or value in (float("inf"), float("-inf")):
        left, right = "[]" if closed else "()"
        left, right = left if low > float("-inf") else "(", right if high < float("inf") else ")"
        raise ConfigurationError(
            f"Cannot use {name} because {why}; pass a number in {left}{low}, {high}{right} (got {value!r})"
        )
    return float(value)


def check_count(owner: str, setting: str, value: object, *, least: int = 1) -> None:
    """Refuse what is not an integer ≥ `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"Cannot build {owner} because {setting} must be an integer ≥ {least}; pass one (got {value!r})."
        )


def counted(samples: int, reals: int | None) -> Iterator[tuple[int, str, str]]:
    """Yield each known count with what it counts and how to raise it, for the messages of `check`."""
    yield samples, "samples", "raise num_samples"
    if reals is not None:
        yield reals, "real images", "pass a larger reference"

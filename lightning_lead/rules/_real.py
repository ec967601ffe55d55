"""Rules that average squares of gradients, entry by entry, which of complex numbers are no sizes."""

from __future__ import annotations

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point

__all__ = ["check_real"]


def check_real(rule: str, point: Point) -> None:
    """Refuse complex parameters."""
    if any(tensor.is_complex() for vector in point.values() for tensor in vector):
        raise ConfigurationError(
            f"Cannot play {rule} on complex parameters because it divides by the root of averaged squares, which are "
            "no sizes there; hold them as torch.view_as_real(...), or play another rule"
        )

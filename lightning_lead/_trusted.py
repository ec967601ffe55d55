"""Packages of the user's own whose classes a recipe or a checkpoint may name."""

from __future__ import annotations

import os

__all__ = ["TRUSTED", "is_trusted"]

TRUSTED = "LIGHTNING_LEAD_TRUSTED"
"""Environment variable: packages, with commas between, of which recipes may build whatever they name."""


def is_trusted(package: str) -> bool:
    """Tell if the environment names the package."""
    return package in os.environ.get(TRUSTED, "").split(",")

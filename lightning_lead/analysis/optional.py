"""scipy is an extra: it is asked for when it is needed, and its absence says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from lightning_lead._errors import ConfigurationError

__all__ = ["scipy_module"]


def scipy_module(name: str, *, what: str) -> Any:
    """A module of scipy.

    Args:
        name: as "optimize".
        what: it is for; follows "Cannot".

    Raises:
        ConfigurationError: scipy is not installed.

    Example:
        >>> scipy_module("optimize", what="refine a search").__name__
        'scipy.optimize'
    """
    try:
        return importlib.import_module(f"scipy.{name}")
    except ImportError as error:
        raise ConfigurationError(
            f"Cannot {what} because scipy is not installed; run pip install scipy, or 'lightning-lead[analysis]'"
        ) from error

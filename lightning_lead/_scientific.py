"""SciPy, which is an extra, on first use: `import lightning_lead.analysis` works without it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lightning_lead._errors import ConfigurationError

__all__ = ["scipy_module"]


def scipy_module(name: str) -> Any:
    """One of SciPy's modules.

    Args:
        name: its name inside SciPy, such as "integrate".

    Returns:
        The module.

    Raises:
        ConfigurationError: SciPy is not installed.

    Example:
        >>> scipy_module("linalg").__name__
        'scipy.linalg'
    """
    try:
        return import_module(f"scipy.{name}")
    except ImportError as missing:
        raise ConfigurationError(
            f"Cannot use scipy.{name} because SciPy is not installed; run `pip install 'lightning-lead[analysis]'` "
            f"(got {missing})."
        ) from missing

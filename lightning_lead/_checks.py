"""What callbacks refuse: settings out of their range, and modules that cannot be sampled."""

from __future__ import annotations

import math
from typing import Any

from lightning_lead._errors import ConfigurationError

__all__ = ["check_generates", "check_positive", "check_range"]


def check_positive(**counts: int | None) -> None:
    """Refuse counts that are not integers ≥ 1; None passes.

    Args:
        **counts: name -> value, as the user passed it.

    Raises:
        ConfigurationError: naming the first wrong one.

    Example:
        >>> check_positive(batch_size=4, every_n_steps=None)
    """
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigurationError(f"Cannot use {name} because it must be an integer ≥ 1 (got {value!r})")


def check_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """The range as two floats, low < high.

    Args:
        value_range: lowest and highest value.

    Raises:
        ConfigurationError: it is something else.

    Example:
        >>> check_range([0, 1])
        (0.0, 1.0)
    """
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


def check_generates(pl_module: Any, who: str) -> None:
    """Refuse a module that cannot be asked for samples.

    Args:
        pl_module: the LightningModule.
        who: the callback that asks, for the message.

    Raises:
        ConfigurationError: naming what is missing.

    Example:
        >>> from lightning_lead import LeadGANModule
        >>> from torch import nn
        >>> check_generates(LeadGANModule(nn.Linear(3, 2), nn.Linear(2, 1), latent_dim=3), "SampleGrid")
    """
    needed = ("generator", "private_noise", "sample_latents", "sample_labels", "sync_buffers")
    if missing := [name for name in needed if not hasattr(pl_module, name)]:
        raise ConfigurationError(
            f"Cannot run {who} because {type(pl_module).__name__} has no {', '.join(missing)}; "
            "subclass LeadGANModule, or add them"
        )

"""The weights of the Inception of 2015-12-05, read as tensors and never as code."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError, first_line

__all__ = ["read_inception_weights"]


def read_inception_weights(path: str | Path | None = None) -> dict[str, Tensor]:
    """Name -> tensor of a saved state dict, on the CPU; of the one that was fetched if no path is given."""
    if path is None:
        from lightning_lead.fetch import find_inception

        path = find_inception()
        if path is None:
            raise ConfigurationError(
                "Cannot load Inception because its weights are not on this machine; get them once with "
                "`lightning-lead fetch inception`, or name a file: Inception2015.pretrained('weights.pt') (got none)."
            )
    advice = "get the weights with `lightning-lead fetch inception`"
    if not Path(path).is_file():
        raise ConfigurationError(f"Cannot load Inception because there is no such file; {advice} (got {path}).")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigurationError(
            f"Cannot load Inception because the file is not a state dict saved by torch.save; {advice} "
            f"(got {path}: {first_line(error)})."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ConfigurationError(
            f"Cannot load Inception because the file holds something other than a state dict, name -> tensor; {advice} "
            f"(got {type(weights).__name__} in {path})."
        )
    return weights

"""A checkpoint, compact or not, or a file with a generator alone, read as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError, first_line
from lightning_lead.checkpoints._game import COMPACT
from lightning_lead.checkpoints._packing import unpack
from lightning_lead.checkpoints._whole import refuse_damaged
from lightning_lead.checkpoints.compact import CompactCheckpointIO

__all__ = ["HALVED", "read_checkpoint"]

HALVED = "halved"
"""A key that is True of a compact checkpoint that has rounded what it holds besides the weights."""


def read_checkpoint(path: Path, *, purpose: str) -> dict[str, Any]:
    """Read a checkpoint by `weights_only=True`: a file that is more than plain weights could run anything.

    Args:
        path: the file.
        purpose: what it is read for, a verb, for the errors.

    Raises:
        ConfigurationError: no such file, or none of plain weights.
        CheckpointMismatchError: a damaged file, or a compact checkpoint that lacks a part.
    """
    if not path.is_file():
        raise ConfigurationError(f"Cannot {purpose} because there is no checkpoint {path}; pass another")
    refuse_damaged(path)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if COMPACT in content:
            packed = CompactCheckpointIO().read_packed(path)
            content = unpack(packed) | {HALVED: packed[COMPACT]["precision"] == "half"}
        if not {"state_dict", "global_step"} <= set(content):
            raise ValueError(f"it holds {sorted(content)}")
    except CheckpointMismatchError:
        raise  # a part of a compact one is missing or damaged, and it says so
    except Exception as error:
        raise ConfigurationError(
            f"Cannot {purpose} {path} because it is no checkpoint of plain weights; pass one that `fit` wrote "
            f"(got {type(error).__name__}: {first_line(error)})"
        ) from error
    return content

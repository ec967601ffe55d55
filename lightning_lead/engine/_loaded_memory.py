"""A rule's memory out of a checkpoint: refused where it is another game's, and put where the parameters are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_lead._errors import CheckpointMismatchError
from lightning_lead._sharding import sharded_like
from lightning_lead._types import Point, Vector

__all__ = ["check_memory", "placed"]


def check_memory(value: Any, point: Point) -> None:
    """Refuse a loaded state whose tensors under a player's name are not those of its parameters."""
    for name, item in value.items() if isinstance(value, Mapping) else ():
        tensors = isinstance(item, (tuple, list)) and item and all(isinstance(each, Tensor) for each in item)
        if name not in point or not tensors:
            check_memory(item, point)
            continue
        ours, theirs = ([list(each.shape) for each in vector] for vector in (point[name], item))
        if ours != theirs or not all(each.is_floating_point() for each in item):
            raise CheckpointMismatchError(
                f"Cannot resume because the rule's memory of {name!r} in the checkpoint is not one of its parameters; "
                f"take another copy of the checkpoint, or an earlier one (got shapes {theirs} instead of {ours}, of "
                f"{', '.join(sorted({str(each.dtype) for each in item}))})"
            )


def placed(value: Any, point: Point, like: Vector = ()) -> Any:
    """Put a loaded state where the parameters are: on their device, and what is a player's in the layout of its own."""
    if isinstance(value, Tensor):
        return value.to(next(iter(point.values()))[0].device)
    if isinstance(value, dict):
        return {key: placed(item, point, point.get(key, ())) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        if len(value) == len(like) and all(isinstance(item, Tensor) for item in value):
            return tuple(sharded_like(item, p) for item, p in zip(value, like, strict=True))
        return tuple(placed(item, point, like) for item in value)
    return value

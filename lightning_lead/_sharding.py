"""Tensors of which every rank holds a part: DTensors, as `torch.distributed.fsdp.fully_shard` makes of parameters.

Nothing here imports `torch.distributed.tensor`: where a DTensor exists, it was imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError

__all__ = [
    "everywhere",
    "fsdp_units",
    "is_sharded",
    "local_part",
    "map_tensors",
    "refuse_sharded",
    "reshard",
    "sharded_like",
    "sum_over_parts",
    "whole",
]


def is_sharded(tensor: Any) -> bool:
    """Return True for a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts, on every rank; all ranks must call it. One that is whole is returned."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's part, in the same memory; it may be empty."""
    part: Tensor = tensor._local_tensor if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor in a parameter's layout over ranks and on its device; a whole one is the same on every rank."""
    if not is_sharded(parameter):
        return whole(tensor).to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    if is_sharded(tensor):
        placed: Tensor = tensor.redistribute(mesh, placements)  # type: ignore[attr-defined]
        return placed
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    result: Tensor = distribute(tensor.to(parameter.device), mesh, placements)
    return result


def map_tensors(change: Callable[[Any], Any], value: Any, kinds: Any = Tensor) -> Any:
    """Change every tensor, or object of other kinds, in a nest of dicts, tuples and lists."""
    if isinstance(value, kinds):
        return change(value)
    if isinstance(value, dict):
        # dict's own items: a dict of `engine._rule_memory` would bring its values to the device
        return {key: map_tensors(change, item, kinds) for key, item in dict.items(value)}
    if isinstance(value, (tuple, list)):
        changed = [map_tensors(change, item, kinds) for item in value]
        return changed if isinstance(value, list) else tuple(changed)
    return value


def sum_over_parts(value: Tensor, vector: Iterable[Tensor]) -> Tensor:
    """Return the sum over ranks of a number that each has of its parts of a vector; of whole tensors the number."""
    if any(map(is_sharded, vector)):
        torch.distributed.all_reduce(value)
    return value


def everywhere(holds: Tensor) -> bool:
    """Return True if a truth value of each rank is True on all of them, which must call it; reads one number."""
    flag = holds.float()
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
    return bool(flag)


def fsdp_units(module: nn.Module) -> list[Any]:
    """List the modules inside one, itself among them, that `fully_shard` was called on."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    return [] if kind is None else [child for child in module.modules() if isinstance(child, kind)]


def reshard(units: Iterable[Any]) -> None:
    """Put the parts of parameters back into the slots in which a forward has put whole ones."""
    for unit in units:
        unit.reshard()


def refuse_sharded(module: nn.Module, what: str) -> None:
    """Refuse what FSDP's forward would undo or wait in, in a module with sharded parameters.

    Args:
        module: that it would be done with.
        what: "Cannot …", for the error.
    """
    if any(map(is_sharded, module.parameters())) or fsdp_units(module):
        raise ConfigurationError(
            f"Cannot {what} while its parameters are sharded because FSDP's forward gathers the live ones, on all "
            "ranks at once; do it in one process, from a checkpoint of "
            "ModelParallelStrategy(save_distributed_checkpoint=False)"
        )

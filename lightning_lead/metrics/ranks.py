"""Exchange between ranks: rows in order, sums and extremes, and what rank 0 has read from a disk."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

__all__ = ["broadcast_tensors", "combine", "gather_in_order", "rank_and_world_size", "shared_blocks"]


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gather_in_order(rows: Tensor, chunk: int) -> Tensor:
    """Return all ranks' rows in the order of one process; this rank has the chunks k with k mod ranks = rank."""
    if rank_and_world_size()[1] == 1:
        return rows
    per_rank = [list(part.split(chunk)) if len(part) else [] for part in gather_all_tensors(rows)]
    pieces = [per_rank[k % len(per_rank)][k // len(per_rank)] for k in range(sum(len(chunks) for chunks in per_rank))]
    return torch.cat(pieces) if pieces else rows


def shared_blocks(count: int, size: int) -> Iterator[slice]:
    """Yield this rank's share of blocks of `count` rows; where one begins does not depend on the number of ranks."""
    rank, ranks = rank_and_world_size()
    for k, start in enumerate(range(0, count, size)):
        if k % ranks == rank:
            yield slice(start, min(start + size, count))


def combine(values: Tensor, how: str = "sum") -> Tensor:
    """Return the "sum", "max" or "min" over ranks, element by element, in place."""
    if rank_and_world_size()[1] > 1:
        operations = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
        torch.distributed.all_reduce(values, operations.get(how, torch.distributed.ReduceOp.MIN))
    return values


def broadcast_tensors(tensors: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor] | None:
    """Return what rank 0 has, on every rank; None if it has nothing."""
    rank, ranks = rank_and_world_size()
    if ranks == 1:
        return None if tensors is None else {name: tensor.to(device) for name, tensor in tensors.items()}
    layout: list[dict[str, tuple[torch.Size, torch.dtype]] | None] = [None]
    if rank == 0 and tensors is not None:
        layout = [{name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}]
    torch.distributed.broadcast_object_list(layout, src=0, device=device)
    if layout[0] is None:
        return None
    received: dict[str, Tensor] = {}
    for name, (shape, dtype) in layout[0].items():
        own = tensors[name].to(device).contiguous() if rank == 0 and tensors is not None else None
        received[name] = torch.empty(shape, dtype=dtype, device=device) if own is None else own
        torch.distributed.broadcast(received[name], src=0)
    return received

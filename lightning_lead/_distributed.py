"""Communication between ranks: one all-reduce per derivative that a rule asks for, and buffers from rank 0.

    mean over ranks of d = Σ_r n_r d_r / Σ_r n_r        (n_r: rank r's batch size)

Every answer of the oracle is linear in the losses, and points and vectors that go into it are the same on every rank,
so the mean of local answers is that of the joint batch. LEAD asks once per player update. DDP's own reducer is not
involved: it never sees `torch.autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_lead._types import Vector
from lightning_lead.calculus._terms import no_reduction

__all__ = [
    "batches_are_equal",
    "broadcast_buffers",
    "broadcast_tensors",
    "combine",
    "gather_in_order",
    "mean_over_ranks",
    "rank_and_world_size",
    "shared_blocks",
]


def mean_over_ranks(strategy: Any, batch_size: int, *, equal: bool) -> Callable[[Vector], Vector]:
    """The reduction of one derivative: flatten, one all-reduce, unflatten.

    Args:
        strategy: Lightning's strategy (`trainer.strategy`).
        batch_size: samples that this rank's vector averages over.
        equal: whether every rank is known to have the same batch size; otherwise the size travels as one more
            number in the same all-reduce, and the mean is weighted by it.

    Returns:
        A function from this rank's vector to the mean; on one process, the identity.

    Example:
        >>> from types import SimpleNamespace
        >>> mean_over_ranks(SimpleNamespace(world_size=1), 4, equal=True)((torch.ones(2),))
        (tensor([1., 1.]),)
    """
    world_size = getattr(strategy, "world_size", 1)
    if world_size == 1:
        return no_reduction

    def reduce(vector: Vector) -> Vector:
        dtypes = {t.dtype for t in vector}
        wide = dtypes.pop() if len(dtypes) == 1 else torch.float32
        flat = torch.cat([t.reshape(-1).to(wide) for t in vector])
        if not equal:
            flat = torch.cat([flat * batch_size, flat.new_tensor([batch_size])])
        torch.distributed.all_reduce(flat)
        flat = flat / world_size if equal else flat[:-1] / flat[-1]
        parts = flat.split([t.numel() for t in vector])
        return tuple(part.view_as(t).to(t.dtype) for part, t in zip(parts, vector, strict=True))

    return reduce


def batches_are_equal(loader: Any, strategy: Any) -> bool:
    """Return True if every rank provably gets batches of one size, always; all ranks must call it.

    A `DistributedSampler` gives each rank the same number of samples, so equal batch sizes stay equal to the last one.

    Args:
        loader: the train dataloader, or a nest of them.
        strategy: Lightning's strategy (`trainer.strategy`).

    Example:
        >>> from types import SimpleNamespace
        >>> from torch.utils.data import DataLoader
        >>> batches_are_equal(DataLoader([1, 2, 3]), SimpleNamespace(world_size=1))
        True
    """
    if getattr(strategy, "world_size", 1) == 1:
        return True
    known = isinstance(getattr(loader, "sampler", None), DistributedSampler) and loader.batch_size is not None
    size = loader.batch_size if known else 0
    extremes = torch.tensor([size, -size], device=strategy.root_device)
    largest, smallest = strategy.reduce(extremes, reduce_op=torch.distributed.ReduceOp.MAX).tolist()
    return bool(largest == -smallest > 0)


def broadcast_buffers(modules: Iterable[nn.Module], strategy: Any) -> None:
    """Give every rank rank 0's buffers, one broadcast per dtype; all ranks must call it.

    In manual optimization Lightning stops doing this after the first step, so running statistics drift apart.

    Args:
        modules: whose buffers.
        strategy: Lightning's strategy (`trainer.strategy`).

    Example:
        >>> from types import SimpleNamespace
        >>> broadcast_buffers([nn.BatchNorm1d(2)], SimpleNamespace(world_size=1))
    """
    if getattr(strategy, "world_size", 1) == 1:
        return
    groups: dict[torch.dtype, list[Tensor]] = {}
    for module in modules:
        for buffer in module.buffers():
            groups.setdefault(buffer.dtype, []).append(buffer)
    for buffers in groups.values():
        flat = torch.cat([b.detach().reshape(-1) for b in buffers])
        torch.distributed.broadcast(flat, src=0)
        for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.detach().copy_(part.view_as(buffer))


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
    """Yield this rank's share of blocks of `count` rows; where one begins does not depend on the number of ranks.

    Args:
        count: rows on all ranks together.
        size: rows of a block.

    Example:
        >>> [(block.start, block.stop) for block in shared_blocks(5, 2)]  # on one process
        [(0, 2), (2, 4), (4, 5)]
    """
    rank, ranks = rank_and_world_size()
    for k, start in enumerate(range(0, count, size)):
        if k % ranks == rank:
            yield slice(start, min(start + size, count))


def combine(values: Tensor, how: str = "sum") -> Tensor:
    """Return the "sum", "max" or "min" over ranks, element by element, in place; all ranks must call it.

    Args:
        values: of the same shape on every rank.
        how: "sum", "max" or "min".

    Example:
        >>> combine(torch.tensor([1, 2])).tolist()  # on one process
        [1, 2]
    """
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

"""What crosses ranks: one all-reduce per derivative that a rule asks for, and buffers from rank 0.

    mean over ranks of d = Σ_r n_r d_r / Σ_r n_r        (n_r: rank r's batch size)

Every answer of the oracle is linear in the losses, and points and vectors that go into it are the same on every rank,
so the mean of local answers is that of the joint batch. LEAD asks once per player update. DDP's own reducer is not
involved: it never sees `torch.autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from lightning_lead._types import Vector
from lightning_lead.calculus.oracle import no_reduction

__all__ = ["batches_are_equal", "broadcast_buffers", "mean_over_ranks"]


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
    """Whether every rank provably gets batches of one size, always; all ranks must call it.

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

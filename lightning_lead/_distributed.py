"""Communication between ranks: one all-reduce per derivative that a rule asks for, and buffers from rank 0.

    mean over ranks of d = Σ_r n_r d_r / Σ_r n_r        (n_r: rank r's batch size)

Every answer of the oracle is linear in the losses, and points and vectors that go into it are the same on every rank,
so the mean of local answers is that of the joint batch. LEAD asks once per player update. DDP's own reducer is not
involved: it never sees `torch.autograd.grad`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler, default_collate
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_lead._types import Vector
from lightning_lead.calculus._terms import no_reduction

__all__ = [
    "broadcast_buffers",
    "broadcast_tensors",
    "combine",
    "gather_in_order",
    "keeps_all_samples",
    "mean_over_ranks",
    "rank_and_world_size",
    "share_of_ranks",
    "shared_blocks",
    "weight_of_rank",
]


def mean_over_ranks(strategy: Any, batch_size: int) -> Callable[[Vector], Vector]:
    """The reduction of one derivative: flatten, one all-reduce, unflatten.

    It is done in the widest of the vector's dtypes, at least in float32, in which a batch size is exact; complex
    tensors are pairs of real ones. What a loader has dropped cannot be seen from here, so the size always travels
    along, as one more number.

    Args:
        strategy: Lightning's strategy (`trainer.strategy`).
        batch_size: samples that this rank's vector averages over; with none, the vector does not count.

    Returns:
        A function from this rank's vector to the mean; on one process, the identity.

    Example:
        >>> from types import SimpleNamespace
        >>> mean_over_ranks(SimpleNamespace(world_size=1), 4)((torch.ones(2),))
        (tensor([1., 1.]),)
    """
    if getattr(strategy, "world_size", 1) == 1:
        return no_reduction

    def reduce(vector: Vector) -> Vector:
        real = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in vector]
        wide = functools.reduce(torch.promote_types, {t.dtype for t in real}, torch.float32)
        one = torch.ones(1, dtype=wide, device=real[0].device)
        flat = torch.cat([*(t.reshape(-1).to(wide) for t in real), one])
        flat = flat * batch_size if batch_size else torch.zeros_like(flat)  # a mean over nothing is no number
        torch.distributed.all_reduce(flat)
        parts = (flat[:-1] / flat[-1]).split([t.numel() for t in real])
        means = [part.view_as(t).to(t.dtype) for part, t in zip(parts, real, strict=True)]
        return tuple(torch.view_as_complex(m) if t.is_complex() else m for m, t in zip(means, vector, strict=True))

    return reduce


def weight_of_rank(batch_size: int, device: torch.device) -> Tensor:
    """Return n_r R / Σ n_r, by which a rank's mean is weighed where the reduction takes the plain mean of R ranks.

    Args:
        batch_size: n_r, samples of this rank.
        device: of the result, a scalar in double precision.

    Example:
        >>> weight_of_rank(4, torch.device("cpu")).item()  # on one process
        1.0
    """
    kind = torch.float32 if device.type == "mps" else torch.float64
    own, ranks = torch.tensor(batch_size, dtype=kind, device=device), rank_and_world_size()[1]
    return own * ranks / combine(own.clone())


def share_of_ranks(strategy: Any, batch_size: int) -> Callable[[Vector], Vector]:
    """The counterpart of `mean_over_ranks` for a player that each rank has its own of, as a δ for each of its samples.

    Its gradient of the joint loss is this rank's, times this rank's share of all samples. If one rank's vector is not
    finite, none is, so that all ranks skip the turn.

    Args:
        strategy: Lightning's strategy (`trainer.strategy`).
        batch_size: samples of this rank.

    Returns:
        A function from this rank's vector to its share; on one process, the identity.

    Example:
        >>> from types import SimpleNamespace
        >>> share_of_ranks(SimpleNamespace(world_size=1), 4)((torch.ones(2),))
        (tensor([1., 1.]),)
    """
    if getattr(strategy, "world_size", 1) == 1:
        return no_reduction

    def share(vector: Vector) -> Vector:
        # a product with zero is zero, or NaN where the vector is not finite: the sum over ranks carries it to all
        broken = torch.stack([(tensor * 0).sum().double() for tensor in vector]).sum()
        counts = torch.stack([torch.full_like(broken, batch_size), broken])
        torch.distributed.all_reduce(counts)
        part = batch_size / counts[0] + counts[1]
        return tuple(tensor * part.to(tensor.dtype) for tensor in vector)

    return share


def keeps_all_samples(loader: Any) -> bool:
    """Return True if a loader is known to hand every rank as many samples as any other one, in every batch.

    A `DistributedSampler` does, if no `collate_fn` of a user's own leaves samples out.

    Args:
        loader: the train dataloader, or a nest of them.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> keeps_all_samples(DataLoader([1, 2, 3]))
        False
    """
    if not isinstance(getattr(loader, "sampler", None), DistributedSampler):
        return False
    collate = loader.collate_fn
    return collate is default_collate or str(getattr(collate, "__module__", "")).startswith("lightning_lead.")


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

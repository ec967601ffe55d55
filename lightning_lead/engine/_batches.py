"""Sizes and cuts of batches, which may be any nest of tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor

from lightning_lead._errors import ConfigurationError

__all__ = ["batch_size", "cut_batch", "split_batch", "tensors_of"]


def batch_size(batch: Any) -> int:
    """Return the number of samples in a batch, by its first tensor of one dimension or more.

    Args:
        batch: a nest that holds a tensor; 1 if it holds scalars alone.

    Raises:
        ConfigurationError: it holds none.

    Example:
        >>> import torch
        >>> batch_size([torch.zeros(4, 2), torch.zeros(4)])
        4
    """
    sizes = [len(tensor) if tensor.dim() else None for tensor in tensors_of(batch)]
    if sizes:
        return next((size for size in sizes if size is not None), 1)
    raise ConfigurationError(
        "Cannot tell the size of the batch, which the mean over ranks and accumulation need, because it holds no "
        f"tensor; let the loader yield tensors, or override game_turns(batch) (got {type(batch).__name__})"
    )


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Every tensor of a batch; a stream inside of it is not read."""
    if isinstance(batch, Tensor):
        yield batch
    elif is_dataclass(batch) and not isinstance(batch, type):
        yield from tensors_of(vars(batch))
    elif isinstance(batch, Mapping):
        yield from (tensor for value in batch.values() for tensor in tensors_of(value))
    elif isinstance(batch, Collection) and not isinstance(batch, (str, bytes)):
        yield from (tensor for value in batch for tensor in tensors_of(value))


def split_batch(batch: Any, size: int, parts: int) -> list[Any]:
    """Split a batch into equal parts along the first dimension of every tensor that has it.

    Args:
        batch: a tensor, or a nest of mappings and sequences of tensors; anything else goes into every part as it is.
        size: samples in the batch.
        parts: how many, ≥ 1.

    Returns:
        The parts, nests of the same kind.

    Raises:
        ConfigurationError: `parts` does not divide `size`.

    Example:
        >>> import torch
        >>> [part["x"].tolist() for part in split_batch({"x": torch.arange(4), "name": "a"}, 4, 2)]
        [[0, 1], [2, 3]]
    """
    if size % parts:
        raise ConfigurationError(
            f"Cannot split a batch of {size} into {parts} micro-batches; choose a batch size that {parts} divides"
        )
    chunk = size // parts
    return [cut_batch(batch, size, k * chunk, (k + 1) * chunk) for k in range(parts)]


def cut_batch(batch: Any, size: int, start: int, stop: int) -> Any:
    """Return the samples from `start` to `stop` of a batch of `size`, a nest as in `split_batch`."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[start:stop] if value.dim() and len(value) == size else value
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(cut(item) for item in value))
        if isinstance(value, (list, tuple)):
            return type(value)(cut(item) for item in value)
        return value

    return cut(batch)

"""Hashes that identify weights, features and statistics by every value, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["tensors_hash", "text_number"]


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors: of their names, types, shapes and values.

    Args:
        tensors: name -> tensor, in any order.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> tensors_hash({})[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def text_number(text: str) -> int:
    """Return the first 64 bits of the sha256 of a text: a seed that differs for every text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

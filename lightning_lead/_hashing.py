"""A hash that identifies weights, features and statistics by every value, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["tensors_hash"]


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256, 64 hexadecimal digits, of the tensors' names, types, shapes and values, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()

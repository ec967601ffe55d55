"""Comparison, bit for bit, of what runs leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["differing", "leaves"]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path -> each tensor, number and text in containers."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def differing(a: Any, b: Any) -> list[str]:
    """Paths at which two trees of containers differ; NaN equals NaN."""
    ours, theirs = dict(leaves(a)), dict(leaves(b))
    return [path for path in {**ours, **theirs} if not _same(ours.get(path), theirs.get(path))]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    return type(a) is type(b) and repr(a) == repr(b)

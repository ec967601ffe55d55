"""Counts what makes the host wait for a device: values that are read, and tensors that are copied to the host.

On a CPU nothing waits, but the calls are the same ones. What an optimizer keeps on the host on purpose (the step counts
of Adam without `fused`) cannot be told apart here, so runs that are counted use fused optimizers.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {  # item, bool, float, tolist; a boolean index; equal
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
}
COPIES = {"cpu", "numpy", "tolist", "__array__", "new_tensor"}  # the last one goes the other way, and waits as well


class HostReads:
    """A context that counts; `where` says what, and in which line of which file."""

    def __init__(self) -> None:
        self.where: Counter[str] = Counter()
        self._modes: list[Any] = []

    def __len__(self) -> int:
        return self.where.total()

    def note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if "lightning" in f.filename or "torch/optim" in f.filename]
        at = f"{'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno}" if frames else "elsewhere"
        self.where[f"{what} at {at}"] += 1

    def __enter__(self) -> HostReads:
        self._modes = [_Dispatch(self), _Function(self)]
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


def _by_truth(indices: Any) -> bool:
    return any(isinstance(i, torch.Tensor) and i.dtype is torch.bool for i in indices)


class _Dispatch(TorchDispatchMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS or (func is aten.index.Tensor and _by_truth(args[1])):
            self.reads.note(str(func))
        return func(*args, **(kwargs or {}))


class _Function(TorchFunctionMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in COPIES:
            self.reads.note(func.__name__)
        return func(*args, **(kwargs or {}))

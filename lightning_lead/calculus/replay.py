"""Replays of a forward: buffers that begin where the first one found them, and move no more.

A replay (a displaced opponent, a probe, a sample for a metric) must not move batch-norm statistics, spectral-norm
vectors or a codebook. It must compute by those of the first evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

__all__ = ["ForwardRecord", "Recomputation", "frozen_buffers"]


@contextmanager
def frozen_buffers(module: nn.Module) -> Iterator[None]:
    """Run forwards that leave every buffer of `module` as it was.

    Buffers are replaced by copies. Power iteration is off, so that a spectral norm is the same function of the weights
    in every evaluation of a pair.

    Args:
        module: any module; its train mode stays as it is.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_buffers(norm):
        ...     _ = norm(torch.randn(8, 2))
        >>> norm.num_batches_tracked.item()
        0
    """
    originals = [(child, n, b) for child in module.modules() for n, b in child.named_buffers(recurse=False)]
    iterating = [child for child, _ in _spectral_norms(module) if child.training]
    try:
        # copies, not a restore afterwards: the graph of an earlier forward may have saved the buffer itself, and
        # writing to it in place would spoil the backward pass
        for child, name, buffer in originals:
            setattr(child, name, buffer.clone())
        for child in iterating:
            child.training = False
        yield
    finally:
        for child, name, buffer in originals:
            setattr(child, name, buffer)
        for child in iterating:
            child.training = True


class ForwardRecord:
    """The buffers that an evaluation began from, and the singular vectors that each of its spectral norms used.

    A train-mode forward moves them, so a second evaluation would be another function of the weights. The difference of
    two gradients would not vanish where nothing has moved. Statistics of batch norms are not kept: in train mode no
    output depends on them.

    Example:
        >>> import torch
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        >>> x, record = torch.ones(1, 3), ForwardRecord()
        >>> with record.recording(layer):
        ...     first, second = layer(x), layer(x)
        >>> with record.replaying(layer):
        ...     torch.equal(layer(x), first), torch.equal(layer(x), second)
        (True, True)
    """

    def __init__(self) -> None:
        self._used: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self._before: list[tuple[nn.Module, str, Tensor]] = []

    @contextmanager
    def recording(self, module: nn.Module) -> Iterator[None]:
        """Keep copies of the buffers, and of the vectors of each forward, after those that were kept before."""
        handles = []
        self._before = self._before or [
            (child, name, buffer.clone())
            for child in module.modules()
            if not isinstance(child, _NormBase)
            for name, buffer in child.named_buffers(recurse=False)
        ]
        for child, (u, v) in _spectral_norms(module):
            used = self._used.setdefault(child, [])

            def keep(layer: nn.Module, *_: object, used: list[Any] = used, u: str = u, v: str = v) -> None:
                used.append((getattr(layer, u).clone(), getattr(layer, v).clone()))

            handles.append(child.register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def replaying(self, module: nn.Module) -> Iterator[None]:
        """Begin with the recorded buffers, use the vectors in the same order, and leave every buffer as it was."""
        handles = []
        for child, (u, v) in _spectral_norms(module):
            pairs = iter(self._used.get(child, []))

            def restore(layer: nn.Module, *_: object, pairs: Any = pairs, u: str = u, v: str = v) -> None:
                pair = next(pairs, None)
                if pair is not None:
                    setattr(layer, u, pair[0])
                    setattr(layer, v, pair[1])

            handles.append(child.register_forward_pre_hook(restore, prepend=True))
        try:
            with frozen_buffers(module):
                for child, name, buffer in self._before:
                    setattr(child, name, buffer.clone())
                yield
        finally:
            for handle in handles:
                handle.remove()


class Recomputation:
    """Leaves buffers as they are where activation checkpointing runs a forward again, in a reverse pass.

    A batch norm in a checkpointed part would count every batch twice, and as often again as derivatives are taken. The
    hooks that see to it are on the layers that hold buffers, until `remove`.

    Args:
        module: that holds the layers.

    Example:
        >>> import torch
        >>> from torch.utils.checkpoint import checkpoint
        >>> norm, x = nn.BatchNorm1d(2), torch.randn(8, 2, requires_grad=True)
        >>> watch = Recomputation(norm)
        >>> checkpoint(norm, x, use_reentrant=False).square().sum().backward()
        >>> norm.num_batches_tracked.item(), watch.found
        (1, True)
    """

    def __init__(self, module: nn.Module) -> None:
        self.found = False
        """True once a forward was run again in a reverse pass."""
        self._frozen: dict[nn.Module, list[AbstractContextManager[None]]] = {}
        self._handles = []
        for layer in module.modules():
            if next(layer.named_buffers(recurse=False), None) is not None:
                self._handles.append(layer.register_forward_pre_hook(self._enter, prepend=True))
                self._handles.append(layer.register_forward_hook(self._leave, always_call=True))

    def __deepcopy__(self, memo: object) -> Recomputation:
        return self  # hooks of a copied layer do the same

    def _enter(self, layer: nn.Module, *_: object) -> None:
        if torch._C._current_graph_task_id() != -1:
            self.found = True
            frozen = frozen_buffers(layer)
            frozen.__enter__()
            self._frozen.setdefault(layer, []).append(frozen)  # a layer may call itself

    def _leave(self, layer: nn.Module, *_: object) -> None:
        if open_ := self._frozen.get(layer):
            open_.pop().__exit__(None, None, None)

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


def _spectral_norms(module: nn.Module) -> list[tuple[nn.Module, tuple[str, str]]]:
    """List the modules whose forward iterates, by both of torch's implementations, and the names of their vectors."""
    found: list[tuple[nn.Module, tuple[str, str]]] = []
    for child in module.modules():
        if isinstance(child, _SpectralNorm) and hasattr(child, "_u"):
            found.append((child, ("_u", "_v")))
        for hook in child._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                found.append((child, (f"{hook.name}_u", f"{hook.name}_v")))
    return found

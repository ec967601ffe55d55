"""Power iteration of spectral norms under dual numbers: on the primal part, because no derivative goes through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from lightning_lead.calculus._chain.dual import split_dual

__all__ = ["primal_power_iteration"]


@contextmanager
def primal_power_iteration(module: nn.Module) -> Iterator[None]:
    """Let spectral norms iterate on the primal part of a dual weight.

    Power iteration writes into its buffers, which dual numbers refuse; no derivative goes through it in any case.

    Args:
        module: any module.

    Example:
        >>> from lightning_lead.calculus._chain.dual import lean_duals
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
        >>> with primal_power_iteration(layer), lean_duals():
        ...     layer(torch.ones(1, 2)).shape
        torch.Size([1, 2])
    """
    patched: list[tuple[Any, str]] = []
    try:
        for child in module.modules():
            if isinstance(child, _SpectralNorm) and hasattr(child, "_u"):
                object.__setattr__(child, "_power_method", partial(_iterate_primal, child._power_method))
                patched.append((child, "_power_method"))
            for hook in child._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm):
                    hook.compute_weight = partial(_weight_of_primal, hook, hook.compute_weight)  # type: ignore[method-assign]
                    patched.append((hook, "compute_weight"))
        yield
    finally:
        for where, name in patched:
            object.__delattr__(where, name)


def _iterate_primal(iterate: Any, weight: torch.Tensor, iterations: int) -> None:
    with torch._C.DisableTorchFunction():  # no rule has a say here, and each call that passes them takes its time
        iterate(split_dual(weight)[0], iterations)


def _weight_of_primal(hook: SpectralNorm, compute: Any, layer: nn.Module, do_power_iteration: bool) -> Any:
    """torch's older implementation iterates and divides in one function: once on the primal, once for the quotient."""
    name, (u, v) = f"{hook.name}_orig", (f"{hook.name}_u", f"{hook.name}_v")
    weight = layer._parameters[name]
    assert weight is not None
    primal, tangent = split_dual(weight)
    if tangent is None or not do_power_iteration:
        return compute(layer, do_power_iteration)
    layer._parameters[name] = primal  # type: ignore[assignment]
    compute(layer, True)
    layer._parameters[name] = weight
    moved = getattr(layer, u), getattr(layer, v)
    setattr(layer, u, moved[0].clone())  # the graph keeps copies, because the next forward writes to the buffers
    setattr(layer, v, moved[1].clone())
    try:
        return compute(layer, False)
    finally:
        setattr(layer, u, moved[0])
        setattr(layer, v, moved[1])

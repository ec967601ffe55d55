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
    """Let spectral norms iterate on the primal part of a dual weight, because torch writes no duals into buffers."""
    patched: list[tuple[Any, str]] = []
    try:
        for child in module.modules():
            # an attribute of the instance hides the class's method until it is deleted; around nn.Module's __setattr__
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
    with torch._C.DisableTorchFunction():  # no tangent rule applies here, and a call that passes them takes longer
        iterate(split_dual(weight)[0], iterations)


def _weight_of_primal(hook: SpectralNorm, compute: Any, layer: nn.Module, do_power_iteration: bool) -> Any:
    """W/σ by torch's older implementation, which iterates and divides in one function, and so is called twice."""
    name, (u, v) = f"{hook.name}_orig", (f"{hook.name}_u", f"{hook.name}_v")
    weight = layer._parameters[name]
    assert weight is not None
    primal, tangent = split_dual(weight)
    if tangent is None or not do_power_iteration:
        return compute(layer, do_power_iteration)
    # first on the primal: u and v move, and the quotient is dropped
    layer._parameters[name] = primal  # type: ignore[assignment]
    compute(layer, True)
    layer._parameters[name] = weight
    # then without iteration on the dual weight, for the quotient and its tangent
    moved = getattr(layer, u), getattr(layer, v)
    setattr(layer, u, moved[0].clone())  # the graph keeps copies, because the next forward writes to the buffers
    setattr(layer, v, moved[1].clone())
    try:
        return compute(layer, False)
    finally:
        setattr(layer, u, moved[0])
        setattr(layer, v, moved[1])

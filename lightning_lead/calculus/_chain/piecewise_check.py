"""A check that a discriminator is piecewise linear: its graph is read, and fast and general derivatives compared.

The result decides how derivatives are computed, never what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lightning_lead._errors import first_line
from lightning_lead._types import Vector
from lightning_lead.calculus._chain.bilinear import BilinearCall, BilinearRules
from lightning_lead.calculus._chain.dual import dual_vector, lean_duals, make_dual, split_dual
from lightning_lead.calculus._chain.piecewise import Discriminator, logits_along_fakes, logits_along_parameters
from lightning_lead.calculus._players import norm, zeros_for_none

__all__ = ["why_not_piecewise_linear"]

_PRODUCTS = {"Addmm", "Baddbmm", "Bmm", "Convolution", "Div", "Mm", "Mul", "Mv"}
_PIECEWISE_LINEAR = _PRODUCTS | {
    *("Abs", "Add", "Alias", "AvgPool1D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveMaxPool2D", "Cat"),
    *("Clone", "ConstantPadNd", "Expand", "Hardtanh", "LeakyRelu", "MaxPool2DWithIndices", "MaxPool3DWithIndices"),
    *("Mean", "NativeDropout", "Neg", "Permute", "PixelShuffle", "PixelUnshuffle", "ReflectionPad2D", "Relu"),
    *("ReplicationPad2D", "ReshapeAlias", "Select", "Slice", "Squeeze", "Sub", "Sum", "T", "Threshold", "ToCopy"),
    *("Transpose", "UnsafeView", "Unsqueeze", "UpsampleBilinear2D", "UpsampleNearest2D", "View"),
}


def why_not_piecewise_linear(
    discriminator: Discriminator,
    data: Tensor,
    parameters: Vector,
    swap: Callable[[Vector], AbstractContextManager[object]],
    replay: Callable[[], AbstractContextManager[object]],
) -> str | None:
    """Say why D must be differentiated by dual arithmetic, or return None."""
    if len(data) < 2:
        return "samples that meet show only where there are two"
    if max(torch.finfo(t.dtype).eps for t in (data, *parameters)) > 1e-3:
        return "its numbers are too coarse to compare"
    data = data.detach().requires_grad_()
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    # displacements, and weights nearby: what a layer does shows also where it was initialised with zeros
    moved = tuple(noise(p) * p.detach().abs().mean().clamp_min(0.01) for p in parameters)
    parameters = tuple(p.detach() + 0.1 * noise(p) * m.abs().mean() for p, m in zip(parameters, moved, strict=True))
    own = tuple(p.clone().requires_grad_() for p in parameters)
    try:
        with torch.enable_grad():
            # 1. the graph: every operation that the data reaches is known, and no parameter is used by itself
            with replay(), swap(own), BilinearRules(_with_constant_weights):
                logits = discriminator(data.view_as(data))
            if logits.numel() != len(data) or logits.grad_fn is None:
                return f"it returns {tuple(logits.shape)} for {len(data)} samples"
            if (operation := _curved(logits, data, own)) is not None:
                return operation
            # 2. the numbers, at random cotangents
            c, e, tangent = noise(logits), noise(logits), noise(data)

            def directions(fast: bool) -> tuple[Vector, Vector]:
                """Gradients of Σ c l + e l̇ + l l̇, once with data that moves and once with parameters that move."""
                with replay(), swap(own):
                    if fast:
                        pair = logits_along_fakes(discriminator, data.detach(), tangent)
                    else:
                        with lean_duals():
                            pair = split_dual(discriminator(make_dual(data.detach(), tangent)))
                    of_weights = torch.autograd.grad(_total(pair, c, e), own, allow_unused=True)
                with replay(), swap(parameters):
                    if fast:
                        pair = logits_along_parameters(discriminator, data, parameters, moved, swap)
                    else:
                        with lean_duals(), swap(dual_vector(parameters, moved)):
                            pair = split_dual(discriminator(data.view_as(data)))
                    of_data = torch.autograd.grad(_total(pair, c, e), data)
                return zeros_for_none(of_weights, own), of_data

            for fast, whole in zip(directions(True), directions(False), strict=True):
                size = norm(whole)
                tolerance = 10 * torch.finfo(size.dtype).eps ** 0.5
                # tensor by tensor, because an optimizer may make much of a small one
                for mine, theirs in zip(fast, whole, strict=True):
                    off = norm((mine - theirs,)) / (norm((theirs,)) + 1e-3 * size)
                    if not off <= tolerance:
                        return f"both ways differ by {float(off):.1e}: samples meet"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the attempt to find a shortcut must not end a fit
        return first_line(error)
    return None


def _with_constant_weights(call: BilinearCall) -> Tensor:
    """The layer without its parameters in the graph, so that any parameter left there has another use."""
    bias = None if call.bias is None else call.bias.detach()
    return call.layer.forward(call.x, call.weight.detach(), bias)


def _total(pair: tuple[Tensor, Tensor | None], c: Tensor, e: Tensor) -> Tensor:
    logits, slopes = pair
    return (c * logits).sum() if slopes is None else (c * logits + e * slopes + logits * slopes).sum()


def _curved(logits: Tensor, data: Tensor, parameters: Vector) -> str | None:
    """Name what is no piecewise-linear operation of torch's own in the graph, or a parameter by itself; or None."""
    reached: dict[Any, bool] = {}  # node -> True if data flows into it
    stack: list[Any] = [logits.grad_fn]
    while stack:  # children first; a loop, because deep graphs exceed Python's recursion limit
        node = stack[-1]
        children = [child for child, _ in node.next_functions if child is not None]
        unknown = [child for child in children if child not in reached]
        if unknown:
            stack += unknown
            continue
        stack.pop()
        reached[node] = getattr(node, "variable", None) is data or any(reached[child] for child in children)
    for node, touched in reached.items():
        if not touched or hasattr(node, "variable"):  # constant, or a leaf
            continue
        # a product is linear if the data is in one factor, and a quotient if it is in the numerator
        kind = _OPERATION.fullmatch(node.name())
        factors = [reached.get(child, False) for child, _ in node.next_functions]
        meet = kind is not None and kind[1] in _PRODUCTS and sum(factors) > 1
        if kind is None or kind[1] not in _PIECEWISE_LINEAR or meet or (kind[1] == "Div" and factors[1:2] == [True]):
            return f"{node.name()} is not piecewise linear"
    own = {id(p) for p in parameters}
    if any(id(getattr(node, "variable", None)) in own for node in reached):
        return "a parameter has a use outside of linear layers and convolutions"
    return None


_OPERATION = re.compile(r"(\w+)Backward\d+")  # a Function outside of torch has a name without a number

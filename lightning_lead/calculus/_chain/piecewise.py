"""A discriminator that is piecewise linear, sample by sample: its tangents share the reverse pass of the gradient.

With x the data of a layer W, y = Wx, and δ_i = ∂l_i/∂y_i for the logit l_i of sample i, the slope l̇ = d/dε l has

    data that moves, u + εt:           ∂_W Σ_i (c_i l_i + e_i l̇_i) = Σ_i δ_i ⊗ (c_i x_i + e_i ẋ_i)
    parameters that move, θ + εΔ:      l̇_i = Σ_layers ⟨Δᵀδ_i, x_i⟩,   ∂_u l̇ = δ̇,   δ̇ ← Wᵀδ̇ + Δᵀδ

because a kink's position has no derivative: δ depends on ε only through the weights. Where the data moves, gradient and
cross term share the single chain of δ, and one product per layer gives both weights' gradients. Where parameters move,
the forward pass of tangents is left out, and one reverse pass carries δ and δ̇.

Cost on top of plain training, with F one forward pass of D: 1F (dual arithmetic: 3F) where the data moves, 2F (4F)
where parameters move. The numbers are those of dual arithmetic, to rounding.

Networks of linear layers, convolutions, ReLU and its kin, pooling and sums qualify, also under spectral norm. Smooth
activations do not, and neither does anything that mixes samples (batch norm); `_chain.piecewise_check` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_lead._types import Vector
from lightning_lead.calculus._chain.bilinear import BilinearCall, BilinearRules
from lightning_lead.calculus._chain.dual import dual_vector, lean_duals, make_dual, split_dual

__all__ = ["StructureChanged", "check_calls", "check_loss", "logits_along_fakes", "logits_along_parameters"]

Discriminator = Callable[[Tensor], Tensor]  # data (m, ...) -> logits, (m,) or (m, 1)


# functions that are linear in the data, or read no values: their coming and going changes no structure
_NEUTRAL = {
    *("__get__", "__len__", "device", "dim", "dim_order", "element_size", "get_device", "is_complex", "is_contiguous"),
    *("is_floating_point", "numel", "requires_grad_", "size", "stride", "storage_offset", "type"),
    *("clone", "contiguous", "detach", "expand", "flatten", "permute", "reshape", "squeeze", "to", "transpose"),
    *("unsqueeze", "view", "view_as", "add", "add_", "__add__", "__iadd__", "__radd__", "cat", "chunk", "split", "sub"),
    *("linear", "conv1d", "conv2d", "conv3d", "pad", "relu", "relu_", "leaky_relu", "leaky_relu_", "threshold"),
    *("dropout", "dropout_", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "interpolate", "pixel_unshuffle"),
}


class StructureChanged(Exception):
    """The discriminator or a loss is no longer what it was when it was found to be piecewise linear."""


def check_calls(calls: set[str], known: dict[str, set[str]], where: str) -> None:
    """Refuse functions of torch that D did not call in the first such evaluation after the structure was found."""
    if new := calls - known.setdefault(where, calls) - _NEUTRAL:
        raise StructureChanged(f"the discriminator calls {', '.join(sorted(new))} since")


def check_loss(values: Sequence[Tensor | None], logits: Tensor) -> None:
    """Refuse a loss that uses more of D than its logits, as features that D keeps: layers know the logits alone."""
    end = {part.grad_fn for part in split_dual(logits) if part is not None}
    stack: list[Any] = [value.grad_fn for value in values if value is not None]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen or node in end:
            continue
        if node.name() in ("_SharingLayerBackward", "_MovingLayerBackward"):
            raise StructureChanged("a loss uses more of the discriminator than its logits")
        seen.add(node)
        stack += [child for child, _ in node.next_functions]


def _per_sample(numbers: Tensor, like: Tensor) -> Tensor:
    """One number per sample, in a shape that multiplies (m, ...)."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1)).to(like.dtype)


# ---- data that moves ------------------------------------------------------------------------------------------------


class _SampleWeights:
    """c and e, the cotangents of logits and slopes, known when the reverse pass begins."""

    c: Tensor
    e: Tensor

    def combined(self, x: Tensor, dx: Tensor | None) -> Tensor:
        """c_i x_i + e_i ẋ_i."""
        total = x * _per_sample(self.c, x)
        return total if dx is None else total.addcmul_(dx, _per_sample(self.e, dx))


class _BeginWithOnes(Function):
    """The identity of (l, l̇); backward, c and e are stored for the layers, and δ begins with ones."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, slopes: Tensor, weights: _SampleWeights) -> tuple[Tensor, Tensor]:
        ctx.weights = weights
        return logits.view_as(logits), slopes.view_as(slopes)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor, None, None]:
        # the layers' δ stay those of l alone; each sample's c and e enter at the weights
        ctx.weights.c, ctx.weights.e = cotangents
        return torch.ones_like(cotangents[0]), None, None


class _SharingLayer(Function):
    """The layer; backward Wᵀδ for the data, and Σ δ ⊗ (c x + e ẋ) for the weight."""

    @staticmethod
    def forward(
        ctx: Any, layer: Any, weights: _SampleWeights, x: Tensor, dx: Tensor | None, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.layer, ctx.weights = layer, weights
        ctx.save_for_backward(x, dx, weight)
        out: Tensor = layer.forward(x, weight, bias)
        return out

    @staticmethod
    def backward(ctx: Any, *deltas: Any) -> tuple[Tensor | None, ...]:
        (delta,), (x, dx, weight) = deltas, ctx.saved_tensors
        to_data, _, to_weight, to_bias = ctx.needs_input_grad[2:]
        return (  # one for each argument of `forward`
            None,
            None,
            ctx.layer.to_input(delta, x, weight) if to_data else None,
            None,
            ctx.layer.to_weight(delta, ctx.weights.combined(x, dx), weight) if to_weight else None,
            ctx.layer.to_bias(delta * _per_sample(ctx.weights.c, delta)) if to_bias else None,
        )


def logits_along_fakes(
    discriminator: Discriminator, data: Tensor, tangent: Tensor, known: dict[str, set[str]] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Logits D(u) and slopes d/dε D(u + εt), differentiable by D's parameters, once; no slopes if u is not in D.

    `known` holds D's calls of before, for `check_calls`.
    """
    weights = _SampleWeights()

    def layer_of(call: BilinearCall) -> Tensor:
        dx = None if call.dx is None else call.dx.detach()  # a tangent has no graph of its own here
        out: Tensor = _SharingLayer.apply(call.layer, weights, call.x, dx, call.weight, call.bias)
        if dx is not None:  # ẏ = W ẋ
            out = make_dual(out, call.layer.forward(dx, call.weight.detach(), None))
        return out

    rules = BilinearRules(layer_of)
    with lean_duals(rules):
        logits, slopes = split_dual(discriminator(make_dual(data, tangent)))
    if known is not None:
        check_calls(rules.calls, known, "fakes")
    if slopes is None or not logits.requires_grad:
        return logits, None
    return tuple(_BeginWithOnes.apply(logits, slopes.detach(), weights))


# ---- parameters that move -------------------------------------------------------------------------------------------


class _Slopes:
    """l̇ of every sample, summed up layer by layer in the reverse pass."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add ⟨left_i, right_i⟩ of every sample i, in at least float32."""
        each = (left * right).flatten(1).sum(1, dtype=torch.promote_types(left.dtype, torch.float32))
        self.total = each if self.total is None else self.total.add_(each)


class _MovingLayer(Function):
    """The layer, and a placeholder for its tangent; backward δ and δ̇, and this layer's part of the slopes.

    The tangent's value is never needed, only its node in the graph. Its cotangent is δ, and that of the layer's output
    is δ̇.
    """

    @staticmethod
    def forward(
        ctx: Any, call: BilinearCall, slopes: _Slopes, anchor: Tensor, x: Tensor, dx: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.layer, ctx.slopes, ctx.dbias = call.layer, slopes, call.dbias
        ctx.save_for_backward(x, call.weight, call.dweight)
        out = call.layer.forward(x, call.weight, call.bias)
        return out, torch.zeros_like(out)

    @staticmethod
    def backward(ctx: Any, *deltas: Any) -> tuple[Tensor | None, ...]:
        (moving, delta), (x, weight, dweight) = deltas, ctx.saved_tensors
        data, placeholder = ctx.needs_input_grad[3:]
        if ctx.dbias is not None:
            ctx.slopes.add(delta, ctx.layer.spread(ctx.dbias, delta))
        to_data = ctx.layer.to_input(moving, x, weight) if data else None  # Wᵀδ̇
        if dweight is not None:
            pulled = ctx.layer.to_input(delta, x, dweight)  # Δᵀδ
            ctx.slopes.add(pulled, x)
            to_data = None if to_data is None else to_data.add_(pulled)
        to_tangent = ctx.layer.to_input(delta, x, weight) if placeholder else None  # Wᵀδ
        return None, None, delta.new_zeros(()), to_data, to_tangent


class _EndOfChains(Function):
    """The identity of (l, l̇); backward c δ + e δ̇, from chains of δ and δ̇ that are complete."""

    @staticmethod
    def forward(
        ctx: Any, data: Tensor, logits: Tensor, slopes: Tensor, delta: Tensor, moving: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(delta, moving)
        return logits.view_as(logits), slopes.view_as(slopes)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        (c, e), (delta, moving) = cotangents, ctx.saved_tensors
        return delta * _per_sample(c, delta) + moving * _per_sample(e, moving), None, None, None, None


def logits_along_parameters(
    discriminator: Discriminator,
    data: Tensor,
    parameters: Vector,
    displacement: Vector,
    swap: Callable[[Vector], AbstractContextManager[object]],
    known: dict[str, set[str]] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logits D_θ(u) and slopes d/dε D_{θ+εΔ}(u), differentiable by u, once; no slopes if constant in u or θ."""
    slopes = _Slopes()

    def layer_of(call: BilinearCall) -> Tensor:
        dual: Tensor = make_dual(*_MovingLayer.apply(call, slopes, anchor, call.x, call.dx))
        return dual

    leaf = data.detach().requires_grad_()
    seed = torch.zeros_like(data, requires_grad=True)
    anchor = data.new_zeros((), requires_grad=True)  # makes autograd visit also layers that the data does not reach
    rules = BilinearRules(layer_of)
    with lean_duals(rules), swap(dual_vector(parameters, displacement)):
        logits, placeholder = split_dual(discriminator(make_dual(leaf.view_as(leaf), seed)))
    if known is not None:
        check_calls(rules.calls, known, "parameters")
    logits = logits.detach()
    if placeholder is None or not placeholder.requires_grad:
        return logits, None
    # this reverse pass sums up the slopes, and ends with δ̇ and δ at the data
    moving, delta, _ = torch.autograd.grad(
        placeholder, (leaf, seed, anchor), torch.ones_like(placeholder), allow_unused=True
    )
    if slopes.total is None or delta is None:
        return logits, None
    moving = torch.zeros_like(delta) if moving is None else moving
    found = slopes.total.to(logits.dtype).view_as(logits)
    return tuple(_EndOfChains.apply(data, logits, found, delta, moving))

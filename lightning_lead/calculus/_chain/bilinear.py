"""Linear layers and convolutions taken apart: y = W·x + b, and the three products of its reverse pass.

    to the input  Wᵀδ,      to the weight  Σ_i δ_i ⊗ x_i,      to the bias  Σ_i δ_i

`BilinearRules` hands every such layer to a function, which may combine the products. All else stays torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from lightning_lead.calculus._chain.dual import dual_vdot, split_dual

__all__ = ["BilinearCall", "BilinearRules"]


class _Linear:
    """y = x Wᵀ + b."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias)

    def to_input(self, delta: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return delta @ weight

    def to_weight(self, delta: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return delta.reshape(-1, delta.shape[-1]).T @ x.reshape(-1, x.shape[-1])

    def to_bias(self, delta: Tensor) -> Tensor:
        return delta.reshape(-1, delta.shape[-1]).sum(0)

    def spread(self, bias: Tensor, like: Tensor) -> Tensor:
        return bias


class _Convolution:
    """y = W * x + b."""

    def __init__(self, dimensions: int, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> None:
        if isinstance(padding, str):
            raise RuntimeError(f"a convolution with padding={padding!r} has no rule here")
        self._geometry = [
            [size] * dimensions if isinstance(size, int) else list(size) for size in (stride, padding, dilation)
        ]
        self._rest: tuple[bool, list[int], int] = (False, [0] * dimensions, groups)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = torch.ops.aten.convolution.default(x, weight, bias, *self._geometry, *self._rest)
        return out

    def _backward(self, delta: Tensor, x: Tensor, weight: Tensor, index: int) -> Tensor:
        # torch's kernel returns the gradients of input, weight and bias; the mask leaves out all but one
        mask = [index == 0, index == 1, False]
        backward = torch.ops.aten.convolution_backward.default
        out: Tensor = backward(delta, x, weight, None, *self._geometry, *self._rest, mask)[index]
        return out

    def to_input(self, delta: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._backward(delta, x, weight, 0)

    def to_weight(self, delta: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._backward(delta, x, weight, 1)

    def to_bias(self, delta: Tensor) -> Tensor:
        return delta.sum([0, *range(2, delta.dim())])

    def spread(self, bias: Tensor, like: Tensor) -> Tensor:
        return bias.reshape(-1, *[1] * (like.dim() - 2))


_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class BilinearCall(NamedTuple):
    """One call of a layer: primals, and tangents where there are any; under autocast, in its lower dtype."""

    layer: _Linear | _Convolution
    x: Tensor
    dx: Tensor | None
    weight: Tensor
    dweight: Tensor | None
    bias: Tensor | None
    dbias: Tensor | None


def _taken_apart(
    func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any
) -> BilinearCall:
    if func in _CONVOLUTIONS and input.dim() != weight.dim():
        raise RuntimeError("a convolution of a single sample has no rule here")
    layer = _Convolution(_CONVOLUTIONS[func], *rest, **more) if func in _CONVOLUTIONS else _Linear()
    parts: list[Tensor | None] = []
    for tensor in (input, weight, bias):
        parts += split_dual(tensor) if tensor is not None else (None, None)
    kind = input.device.type
    # the cast of `linear` or a convolution under autocast, which the kernels called here by name do not have
    if torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        parts = [part if part is None or part.dtype == torch.float64 else part.to(low) for part in parts]
    return BilinearCall(layer, *parts)  # type: ignore[arg-type]


class BilinearRules(TorchFunctionMode):
    """A context in which every linear layer and convolution is computed by a function from a call to its output."""

    def __init__(self, compute: Callable[[BilinearCall], Tensor]) -> None:
        super().__init__()
        self._compute = compute
        self.calls: set[str] = set()  # names of torch's functions that were called inside

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.calls.add(func.__name__)
        if func in _CONVOLUTIONS or func is linear:
            return self._compute(_taken_apart(func, *args, **(kwargs or {})))
        if func is torch.vdot:
            return dual_vdot(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

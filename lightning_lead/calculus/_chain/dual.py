"""Forward-mode derivatives at the price of their arithmetic: x + εẋ through a network, ε² = 0.

    f(x, W) bilinear (convolution, linear layer):   primal f(x, W),   tangent f(ẋ, W) + f(x, Ẇ)

torch's own tangent rule computes both terms also where ẋ or Ẇ is zero; a product with zeros costs as much as any other.
In the generator's cross term, and in the discriminator's, that is a third of the cost. `lean_duals` leaves them out.

    batch norm, x̂ = (x − μ)·r:   tangent w·r·(ẋ − mean(ẋ) − x̂·mean(x̂ẋ)) + ẇ·x̂ + ḃ

torch's rule takes μ and r as given numbers. That is right for the tangent itself. A reverse derivative of the tangent,
as in a cross term, then misses how both depend on x; here they are functions of x. The same holds for instance norm and
layer norm, with means over other dimensions.

Close the level before taking a reverse derivative of its results. Inside, saved tensors of the graph still carry
tangents, and the backward pass would compute with those as well, at three times its cost.

Reference: Griewank and Walther, "Evaluating Derivatives", SIAM 2008, section 3.1.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import batch_norm, instance_norm, layer_norm
from torch.overrides import TorchFunctionMode

from lightning_lead._types import Vector

__all__ = ["dual_vdot", "dual_vector", "has_compiled", "lean_duals", "make_dual", "split_dual", "uncompiled"]

_BILINEAR = frozenset(
    {
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.conv_transpose1d,
        torch.conv_transpose2d,
        torch.conv_transpose3d,
        torch.nn.functional.linear,
    }
)


class _TangentRules(TorchFunctionMode):
    """A context with tangent rules of its own for bilinear layers and norms; all else is torch's."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _BILINEAR:
            return _bilinear(func, *args, **(kwargs or {}))
        if func in _NORMS:
            return _NORMS[func](*args, **(kwargs or {}))
        if func is torch.vdot:
            return dual_vdot(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _bilinear(
    func: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any
) -> Tensor:
    x, dx = split_dual(input)
    w, dw = split_dual(weight)
    b, db = split_dual(bias) if bias is not None else (None, None)
    primal = func(x, w, b, *rest, **more)
    terms = [func(dx, w, None, *rest, **more)] if dx is not None else []  # f(ẋ, W), then f(x, Ẇ) + ḃ
    if dw is not None:
        terms.append(func(x, dw, db, *rest, **more))
    elif db is not None:  # a bias that moves alone: the same shift for every output of its channel
        shift = db if func is torch.nn.functional.linear else _channels(db, primal)
        terms.append(shift.to(primal.dtype).expand_as(primal))
    return _dual_of(primal, terms)


def _dual_of(primal: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """A primal with the sum of up to two terms as its tangent."""
    if not terms:
        return primal
    dual: Tensor = make_dual(primal, terms[0] if len(terms) == 1 else terms[0] + terms[1])
    return dual


def dual_vdot(input: Tensor, other: Tensor) -> Tensor:
    """torch.vdot of dual vectors, as spectral norms call it; torch's own rule is written in Python and takes longer."""
    (x, dx), (y, dy) = split_dual(input), split_dual(other)
    primal = torch.vdot(x, y)
    terms = [torch.vdot(dx, y)] if dx is not None else []
    if dy is not None:
        terms.append(torch.vdot(x, dy))
    return _dual_of(primal, terms)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    (x, dx), (w, dw), (b, db) = split_dual(input), _split(weight), _split(bias)
    batch = training or running_mean is None or running_var is None  # normalised by the batch's own statistics
    given = (None, None) if batch else (running_mean, running_var)
    if torch.is_grad_enabled():
        primal = batch_norm(x, running_mean, running_var, w, b, training, momentum, eps)
        dims = [0, *range(2, x.dim())] if batch else []
        tangent = _norm_tangent(x, dx, _per_channel(x, w, dw, db), dims, given, eps)
    else:  # nothing is differentiated afterwards, so that torch's kernels serve
        primal, *used = torch.native_batch_norm(x, w, b, running_mean, running_var, batch, momentum, eps)
        tangent = None
        if dx is not None:
            # the Jacobian of a batch norm is symmetric, so its backward kernel is its forward derivative
            kernel, mask = torch.ops.aten.native_batch_norm_backward, [True, False, False]
            tangent = kernel(dx, x, w, *given, *(used if batch else (None, None)), batch, eps, mask)[0]
        if dw is not None or db is not None:
            # ẇ·x̂ + ḃ is the batch norm with ẇ and ḃ as its weight and bias
            scale = dw if dw is not None else torch.zeros_like(db)  # type: ignore[arg-type]
            tangent = _plus(tangent, batch_norm(x, *given, scale, db, batch, 0.0, eps))
    return primal if tangent is None else make_dual(primal, tangent.to(primal.dtype).expand_as(primal))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    (x, dx), (w, dw), (b, db) = split_dual(input), _split(weight), _split(bias)
    primal = instance_norm(x, running_mean, running_var, w, b, use_input_stats, momentum, eps)
    dims = list(range(2, x.dim())) if use_input_stats else []
    given = (None, None) if use_input_stats else (running_mean, running_var)
    tangent = _norm_tangent(x, dx, _per_channel(x, w, dw, db), dims, given, eps)
    return primal if tangent is None else make_dual(primal, tangent.to(primal.dtype).expand_as(primal))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    (x, dx), (w, dw), (b, db) = split_dual(input), _split(weight), _split(bias)
    primal = layer_norm(x, normalized_shape, w, b, eps)
    tangent = _norm_tangent(x, dx, (w, dw, db), list(range(-len(normalized_shape), 0)), (None, None), eps)
    return primal if tangent is None else make_dual(primal, tangent.to(primal.dtype).expand_as(primal))


_NORMS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    batch_norm: _batch_norm,
    instance_norm: _instance_norm,
    layer_norm: _layer_norm,
}


def _norm_tangent(
    x: Tensor,
    dx: Tensor | None,
    affine: tuple[Tensor | None, Tensor | None, Tensor | None],  # w, ẇ and ḃ, of shapes that fit x
    dims: list[int],  # those that the statistics are taken over; none where they are given
    given: tuple[Tensor | None, Tensor | None],  # running mean and variance
    eps: float,
) -> Tensor | None:
    """w·r·(ẋ − mean(ẋ) − x̂·mean(x̂ẋ)) + ẇ·x̂ + ḃ, written out, so that μ and r are functions of x."""
    (w, dw, db), (mean, variance) = affine, given
    if mean is None or variance is None:
        variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    else:
        mean, variance = _channels(mean, x), _channels(variance, x)
    inverse = (variance + eps).rsqrt()
    normalized = (x - mean) * inverse
    tangent = None
    if dx is not None:
        tangent = dx
        if dims:  # the statistics move with x
            tangent = dx - dx.mean(dims, keepdim=True) - normalized * (normalized * dx).mean(dims, keepdim=True)
        tangent = tangent * (inverse if w is None else inverse * w)
    if dw is not None:
        tangent = _plus(tangent, normalized * dw)
    if db is not None:
        tangent = _plus(tangent, db)
    return tangent


def _split(tensor: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if tensor is None else split_dual(tensor)


def _per_channel(
    like: Tensor, w: Tensor | None, dw: Tensor | None, db: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    shaped = [None if vector is None else _channels(vector, like) for vector in (w, dw, db)]
    return shaped[0], shaped[1], shaped[2]


def _channels(vector: Tensor, like: Tensor) -> Tensor:
    return vector.reshape(1, -1, *[1] * (like.dim() - 2))


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term


@contextmanager
def lean_duals(tangent_rules: TorchFunctionMode | None = None) -> Iterator[None]:
    """Open a level of dual numbers in which no product with a zero tangent is computed."""
    _load_tangent_rules()
    with uncompiled(), forward_ad.dual_level(), _TangentRules() if tangent_rules is None else tangent_rules:
        yield


def uncompiled() -> AbstractContextManager[object]:
    """Run code that torch.compile has wrapped as it was written, because compiled code knows no dual numbers."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and the import takes seconds
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


@functools.cache
def _load_tangent_rules() -> None:
    """Let torch load its own rules, as at the first dual number, through a compiler of which it then warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def make_dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """x + εẋ, of one shape and dtype. The checks of `forward_ad.make_dual` take longer than a small layer."""
    with torch._C.DisableTorchFunction():  # the rules are for networks, and a call that passes them takes longer
        dual: Tensor = torch._make_dual(primal, tangent, level=0)
    return dual


def split_dual(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Primal and tangent; the latter is None where the tensor does not move, as outside of `lean_duals`."""
    with torch._C.DisableTorchFunction():
        primal, tangent = forward_ad.unpack_dual(tensor)
    return primal, tangent


def dual_vector(vector: Vector, tangent: Vector) -> Vector:
    """θ + εΔ, tensor by tensor, in the dtypes of θ."""
    with torch._C.DisableTorchFunction():
        return tuple(torch._make_dual(p, d.to(p.dtype), level=0) for p, d in zip(vector, tangent, strict=True))


def has_compiled(module: nn.Module) -> bool:
    """True if a layer is compiled, by either way of calling `torch.compile`; its code allows one reverse pass."""
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in module.modules())

"""First derivatives of a loss, the cross term that couples the players, and products of Hessian blocks.

    g_i = ∇_i L_i
    c_i = −∇_i ⟨∇_j L_j, Δ_j⟩     (opponent form)
    c_i = +∇_i ⟨∇_j L_i, Δ_j⟩     (own form; the two agree when L_j = −L_i)

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_lead._errors import DifferentiationError
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._graph import is_checkpointed
from lightning_lead.calculus._players import inner, zeros_for_none
from lightning_lead.calculus._terms import HessianTerm

__all__ = ["cross_term", "gradient", "hessian_product"]


def gradient(
    loss: Tensor,  # scalar
    parameters: Vector,
    *,
    create_graph: bool = False,
    retain_graph: bool = False,
    by_backward: bool = False,
    label: str = "the loss",
) -> Vector:
    """The gradient of a scalar, one tensor per parameter; zeros for a parameter that the loss does not depend on.

    Cost: one backward pass.

    Args:
        loss: scalar tensor.
        parameters: tensors that require gradients.
        create_graph: keep the result differentiable.
        retain_graph: keep the loss' graph for another derivative.
        by_backward: collect what `backward()` leaves on the parameters, which must be leaves without a `.grad`. No
            other way leads through reentrant activation checkpointing. Other leaves of the graph get theirs as well.
        label: how the error names the loss.

    Raises:
        DifferentiationError: the loss is no scalar, or depends on none of the parameters.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradient((x**2).sum(), (x,))
        (tensor([2., 4.]),)
    """
    if loss.dim() != 0:
        raise DifferentiationError(
            f"Cannot differentiate {label} because it is not a scalar; return its mean (got shape {tuple(loss.shape)})"
        )
    grads = _grads(loss, parameters, create_graph=create_graph, retain_graph=retain_graph, by_backward=by_backward)
    if by_backward:
        for p in parameters:
            p.grad = None
    if not by_backward and any(g is None for g in grads) and is_checkpointed(loss):
        raise DifferentiationError(
            f"Cannot differentiate {label} through reentrant activation checkpointing that began in mid-run; pass "
            "use_reentrant=False to it, or switch it on before the fit"
        )
    if all(g is None for g in grads):
        raise DifferentiationError(
            f"Cannot differentiate {label} because it depends on none of the {len(parameters)} parameters it was asked "
            "for; check that the player's output reaches it and is not detached"
        )
    return zeros_for_none(grads, parameters)


def cross_term(
    field: Vector,  # ∇_j L, differentiable with respect to the player
    parameters: Vector,  # θ_i
    displacement: Vector,  # Δ_j
    *,
    label: str = "the opponent's gradient",
    exhaustive: bool = False,
    retain_graph: bool = False,
) -> Vector:
    """∇_i ⟨∇_j L, Δ_j⟩: the mixed second derivative times the opponent's displacement, one tensor per parameter.

    Cost: one backward pass through the graph of a gradient; frees the graph unless it is retained.

    Args:
        field: the gradient of a loss with respect to the opponent, taken with `create_graph=True`.
        parameters: the player's own parameters.
        displacement: of the opponent, of the shapes of `field`.
        label: how the error names the field.
        exhaustive: visit the whole graph, not just the paths that lead to the parameters. A layer without a second
            derivative cuts its path, and its share of the result is silently missing. Only a full visit meets the
            error that the layer left there. Leaves `.grad` on the leaves of the graph, but for the player's.
        retain_graph: keep the graph for another derivative.

    Raises:
        DifferentiationError: the field does not depend on the player, so the game has no interaction.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True); y = torch.tensor(2.0, requires_grad=True)
        >>> field = gradient(x * x * y, (y,), create_graph=True)
        >>> cross_term(field, (x,), (torch.tensor(0.5),))
        (tensor(3.),)
    """
    grads = _grads(inner(field, displacement), parameters, by_backward=exhaustive, retain_graph=retain_graph)
    if exhaustive:  # of a product that follows it would be a sum
        for p in parameters:
            p.grad = None
    if all(g is None for g in grads):
        raise DifferentiationError(
            f"Cannot form the cross term because {label} does not depend on the player; "
            "the players must meet in one loss. Is an output detached, as fakes in a discriminator's loss often are, "
            "or an opponent left out? Take the detach() out, or use LEADStrategy(cross='extrapolated')"
        )
    return zeros_for_none(grads, parameters)


def hessian_product(
    values: Mapping[str, Tensor],  # the losses, by player
    point: Point,  # both players' parameters, requiring gradients
    parameters: Vector,  # θ_i, the row
    terms: Sequence[HessianTerm],
) -> Vector:
    """Σ (∂²L_loss / ∂θ_i ∂θ_column) · vector, detached; zeros for a parameter that no loss depends on.

    Cost: one gradient and its derivative for each term.

    Args:
        values: the losses that the terms name, differentiable by the point.
        point: where they were evaluated.
        parameters: of the player that asks, as they stand in the point.
        terms: at least one.

    Raises:
        DifferentiationError: a loss does not depend on its column.

    Example:
        >>> x, y = (torch.tensor(v, requires_grad=True) for v in (3.0, 2.0))
        >>> term = HessianTerm(loss="x", column="y", vector=(torch.tensor(0.5),))
        >>> hessian_product({"x": x * x * y}, {"x": (x,), "y": (y,)}, (x,), [term])
        (tensor(3.),)
    """
    products = []
    for loss, column, vector in terms:
        label = f"the loss of player {loss!r}"
        products.append(inner(gradient(values[loss], point[column], create_graph=True, label=label), vector))
    grads = _grads(torch.stack(products).sum(), parameters)
    return tuple(g.detach() for g in zeros_for_none(grads, parameters))


def _grads(
    scalar: Tensor,
    parameters: Vector,
    *,
    create_graph: bool = False,
    retain_graph: bool = False,
    by_backward: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of a scalar, None where it does not depend on a parameter; those by `backward()` stay in `.grad`."""
    if not scalar.requires_grad:
        return (None,) * len(parameters)
    if by_backward:
        scalar.backward(retain_graph=retain_graph)
        return tuple(p.grad for p in parameters)
    return torch.autograd.grad(
        scalar, parameters, create_graph=create_graph, retain_graph=retain_graph or create_graph, allow_unused=True
    )

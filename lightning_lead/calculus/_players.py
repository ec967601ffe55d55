"""The two players of a game and the vectors that hold their parameters.

A game here has exactly two players. Each owns a `Vector`, one tensor per parameter, and the two never share a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector

__all__ = [
    "Point",
    "Vector",
    "check_players",
    "extrapolated",
    "inner",
    "laid_out_like",
    "norm",
    "opponent_of",
    "snapshot",
    "weighted_sum",
]


def opponent_of(player: str, names: Sequence[str]) -> str:
    """The other one of two players.

    Args:
        player: the name of one player.
        names: both names.

    Returns:
        The name that is not `player`.

    Raises:
        ConfigurationError: if `player` is not one of exactly two names.

    Example:
        >>> opponent_of("generator", ("generator", "discriminator"))
        'discriminator'
    """
    if len(names) != 2 or player not in names:
        raise ConfigurationError(
            f"Cannot find the opponent of {player!r} because a game has exactly two named players; (got {list(names)})"
        )
    first, second = names
    return second if player == first else first


def check_players(players: Mapping[str, Sequence[Tensor]], *, alone: bool = False) -> None:
    """Refuse anything but two players with parameters of their own.

    Args:
        players: name -> that player's parameters.
        alone: whether one player will do, as for a rule that knows of no opponent.

    Raises:
        ConfigurationError: not two players, a player without parameters, or a parameter that both own.

    Example:
        >>> check_players({"x": [torch.zeros(2)], "y": [torch.zeros(3)]})
    """
    if len(players) != 2 and not (alone and len(players) == 1):
        raise ConfigurationError(
            f"Cannot play with {len(players)} players because the cross term couples exactly two; "
            f"return two entries from players() (got {list(players)})"
        )
    for name, parameters in players.items():
        if not parameters:
            raise ConfigurationError(
                f"Cannot train player {name!r} because it has no parameter that requires a gradient; "
                "check that its network is built and not frozen (got 0 parameters)"
            )
    first, *rest = players.values()
    if shared := {id(p) for p in first} & {id(p) for other in rest for p in other}:
        raise ConfigurationError(
            f"Cannot separate the players because they share {len(shared)} parameter(s); give each network its own"
        )


def inner(a: Vector, b: Vector) -> Tensor:
    """The inner product of two vectors, in at least float32.

    Args:
        a: one tensor per parameter.
        b: tensors of the same shapes.

    Returns:
        A scalar tensor; it can be differentiated with respect to either side.

    Example:
        >>> inner((torch.ones(2), torch.ones(1)), (torch.full((2,), 2.0), torch.ones(1))).item()
        5.0
    """
    return torch.stack([_product(p.to(_wide(p)), q.to(_wide(p))) for p, q in zip(a, b, strict=True)]).sum()


def _product(p: Tensor, q: Tensor) -> Tensor:
    """Of complex tensors that of their real and imaginary parts, as torch's gradients have them."""
    return (p * q.conj()).real.sum() if p.is_complex() else (p * q).sum()


def norm(vector: Vector) -> Tensor:
    """The Euclidean norm of a vector over all of its tensors, a scalar tensor.

    Args:
        vector: one tensor per parameter.

    Returns:
        A scalar tensor on the vector's device; no synchronisation with the host.

    Example:
        >>> norm((torch.tensor([3.0]), torch.tensor([4.0]))).item()
        5.0
    """
    length: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(vector))))
    return length


def laid_out_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor in a parameter's dtype and in its order in memory.

    Fused optimizers walk through a parameter and its gradient side by side and do not look whether both are in one
    order: with channels last in one of them alone, they step along a shuffled gradient (seen in torch 2.14 on CPUs).

    Args:
        tensor: of the parameter's shape.
        parameter: whose order counts.

    Example:
        >>> weight = torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last)
        >>> laid_out_like(torch.ones(2, 3, 2, 2), weight).stride() == weight.stride()
        True
    """
    if tensor.stride() != parameter.stride():
        tensor = torch.empty_like(parameter).copy_(tensor)
    return tensor.to(parameter.dtype)


def extrapolated(now: Vector, before: Vector, weight: float) -> Vector:
    """θ + weight · (θ − θ⁻): where a player would be after `weight` more moves like its last one.

    Args:
        now: θ.
        before: θ⁻, of the same shapes, in at least the precision of θ.
        weight: of the move; 0 gives θ, −1 gives θ⁻.

    Returns:
        A new vector, in the dtypes of θ.

    Example:
        >>> extrapolated((torch.tensor(3.0),), (torch.tensor(2.0),), 1.5)
        (tensor(4.5000),)
    """
    wide = [p.to(b.dtype) for p, b in zip(now, before, strict=True)]
    # lerp computes θ + weight · (θ − θ⁻) where its own weight, 1 + weight, is at least ½, and θ⁻ exactly at −1
    ahead = torch._foreach_lerp(list(before), wide, 1 + weight)
    return tuple(a.to(p.dtype) for a, p in zip(ahead, now, strict=True))


def snapshot(vector: Vector) -> Vector:
    """Return copies to remember, in at least float32.

    An alias would change with what it is of: optimizers move weights in place, and clips and optimizers work on
    gradients in place. In bf16 an average would stall, and a displacement be rounding.

    Args:
        vector: parameters or a direction.

    Example:
        >>> snapshot((torch.ones(1, dtype=torch.bfloat16),))
        (tensor([1.]),)
    """
    return tuple(p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in vector)


def weighted_sum(terms: Sequence[tuple[float, Vector]]) -> Vector:
    """The linear combination Σ weight · vector.

    Args:
        terms: (weight, vector) pairs, at least one; all vectors of the same shapes.

    Returns:
        A new vector; a single term of weight 1 is handed back as it is.

    Example:
        >>> weighted_sum([(2.0, (torch.ones(1),)), (-1.0, (torch.ones(1),))])
        (tensor([1.]),)
    """
    (weight, first), *rest = terms
    total = list(first) if weight == 1.0 else list(torch._foreach_mul(list(first), weight))
    for weight, vector in rest:
        total = list(torch._foreach_add(total, list(vector), alpha=weight))
    return tuple(total)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)

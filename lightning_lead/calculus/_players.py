"""The players of a game and the vectors that hold their parameters.

Each owns a `Vector`, one tensor per parameter, and no two share a tensor. To one player of several all others are one
opponent, whose vector is theirs one after the other, in the order of play.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError, DifferentiationError
from lightning_lead._sharding import is_sharded, local_part, sum_over_parts
from lightning_lead._types import Point, Vector

__all__ = [
    "check_players",
    "extrapolated",
    "inner",
    "joined",
    "laid_out_like",
    "leaves_of",
    "listed",
    "moved_back",
    "norm",
    "opponent_of",
    "opponents_of",
    "parted",
    "snapshot",
    "weighted_sum",
    "zeros_for_none",
]


def opponent_of(player: str, names: Sequence[str]) -> str:
    """The other one of two players.

    Args:
        player: the name of one player.
        names: both names.

    Raises:
        ConfigurationError: `player` is not one of exactly two names.

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


def opponents_of(player: str, names: Iterable[str]) -> tuple[str, ...]:
    """All players but one, in the order of play."""
    return tuple(name for name in names if name != player)


def joined(point: Point, names: Iterable[str]) -> Vector:
    """The vectors of some players, one after the other."""
    return tuple(tensor for name in names for tensor in point[name])


def parted(vector: Vector, point: Point, names: Sequence[str]) -> dict[str, Vector]:
    """Player -> its part of a vector that `joined` could have returned for these names."""
    parts, start = {}, 0
    for name in names:
        stop = start + len(point[name])
        parts[name] = vector[start:stop]
        start = stop
    return parts


def check_players(
    players: Mapping[str, Sequence[Tensor]], *, rule: str, alone: bool = False, several: bool = False
) -> None:
    """Refuse players without parameters, parameters of two, and another number of players than a rule can play.

    Args:
        players: name -> parameters.
        rule: its name, for messages.
        alone: one player will do.
        several: more than two players will do.
    """
    if len(players) < (1 if alone else 2):
        raise ConfigurationError(
            f"Cannot play {rule} with {len(players)} players because it takes two who meet; return two entries from "
            f"players(), or use game='GradientDescent' for one player (got {list(players)})"
        )
    if len(players) > 2 and not several:
        raise ConfigurationError(
            f"Cannot play {rule} with {len(players)} players because it is defined for two; use LEADStrategy(), "
            f"game='ExtraAdam' or another of docs/players.md (got {list(players)})"
        )
    for name, parameters in players.items():
        if not parameters:
            raise ConfigurationError(
                f"Cannot train player {name!r} because it has no parameter that requires a gradient; "
                "check that its network is built and not frozen; while the other player moves it may be, in "
                "alternating play (got 0 parameters)"
            )
    _refuse_shared(players)


def listed(players: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """Name -> all parameters, from what a user returned from `players()`; refuses networks, and parameters of both."""
    for name, given in players.items():
        if isinstance(given, nn.Module):
            raise ConfigurationError(
                f"Cannot train player {name!r} because players() returned its network; return its parameters(), or "
                f"those of several networks in a list (got {type(given).__name__})"
            )
    lists = {name: list(given) for name, given in players.items()}
    for name, parameters in lists.items():
        if strangers := [type(p).__name__ for p in parameters if not isinstance(p, Tensor)]:
            raise ConfigurationError(
                f"Cannot train player {name!r} because players() returned what is no parameter; return "
                f"network.parameters(), or [*a.parameters(), *b.parameters()] (got {strangers[0]})"
            )
    _refuse_shared(lists)
    return lists


def _refuse_shared(players: Mapping[str, Sequence[Tensor]]) -> None:
    owned = [{id(p) for p in parameters} for parameters in players.values()]
    if shared := sum(map(len, owned)) - len(set().union(*owned)):
        raise ConfigurationError(
            f"Cannot separate the players because they share {shared} parameter(s); give each network its own"
        )


def inner(a: Vector, b: Vector) -> Tensor:
    """Σ a·b over all tensors, a scalar in at least float32; differentiable with respect to either side.

    Of sharded tensors it is that of all parts, as is `norm`, and all ranks must call it.
    """
    own = ((local_part(p), local_part(q)) for p, q in zip(a, b, strict=True))
    return sum_over_parts(torch.stack([_product(p.to(_wide(p)), q.to(_wide(p))) for p, q in own]).sum(), a)


def _product(p: Tensor, q: Tensor) -> Tensor:
    """Of complex tensors that of their real and imaginary parts, as torch's gradients have them."""
    return (p * q.conj()).real.sum() if p.is_complex() else (p * q).sum()


def norm(vector: Vector) -> Tensor:
    """The Euclidean norm over all tensors, a scalar on their device; nothing waits for it."""
    length: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([local_part(t) for t in vector])))
    return sum_over_parts(length**2, vector).sqrt() if any(map(is_sharded, vector)) else length


def laid_out_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor in a parameter's dtype and in its order in memory.

    Fused optimizers walk through a parameter and its gradient side by side, without a check that both are in one order.
    With channels last in one of them alone, they step along a shuffled gradient (seen in torch 2.14 on CPUs).
    """
    if tensor.stride() != parameter.stride():
        tensor = torch.empty_like(parameter).copy_(tensor)
    return tensor.to(parameter.dtype)


def extrapolated(now: Vector, before: Vector, weight: float) -> Vector:
    """θ + weight · (θ − θ⁻), in the dtypes of θ; θ⁻ is of at least the precision of θ."""
    wide = [p.to(b.dtype) for p, b in zip(now, before, strict=True)]
    # lerp computes θ + weight · (θ − θ⁻) where its own weight, 1 + weight, is at least ½, and θ⁻ exactly at −1
    ahead = torch._foreach_lerp(list(before), wide, 1 + weight)
    return tuple(a.to(p.dtype) for a, p in zip(ahead, now, strict=True))


def snapshot(vector: Vector) -> Vector:
    """Return copies to remember, in at least float32.

    Copies, because optimizers and clips change tensors in place. In bf16 an average would stall, and a displacement be
    rounding.
    """
    return tuple(p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in vector)


def leaves_of(vector: Vector, *, requires_grad: bool = True) -> Vector:
    """Detach a vector into leaves of a graph of their own."""
    return tuple(p.detach().requires_grad_(requires_grad) for p in vector)


def moved_back(vector: Vector, displacement: Vector) -> Vector:
    """θ − Δ, detached."""
    return tuple((p - d.to(p.dtype)).detach() for p, d in zip(vector, displacement, strict=True))


def zeros_for_none(grads: Sequence[Tensor | None], parameters: Vector) -> Vector:
    """Gradients, with zeros for parameters that nothing depends on."""
    if any(g is not None and g.layout != torch.strided for g in grads):
        raise DifferentiationError(
            "Cannot play by sparse gradients because rules add them to others; let the layer make dense ones, as "
            "torch.nn.Embedding(sparse=False)"
        )
    return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True))


def weighted_sum(terms: Sequence[tuple[float, Vector]]) -> Vector:
    """Σ weight · vector over at least one term; a single term of weight 1 is returned as it is."""
    (weight, first), *rest = terms
    total = list(first) if weight == 1.0 else list(torch._foreach_mul(list(first), weight))
    for weight, vector in rest:
        total = list(torch._foreach_add(total, list(vector), alpha=weight))
    return tuple(total)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)

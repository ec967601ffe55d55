"""The terms that an oracle is asked for, what it returns beside directions, and what backends of it share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_lead._types import CrossForm, Point, Vector
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.calculus._players import inner, norm

COUPLED = "coupled/"
"""Before a player's name: the part of its loss in which the players meet, where losses tell it apart."""

__all__ = [
    "COUPLED",
    "Backend",
    "Contexts",
    "CrossTerm",
    "Direction",
    "Divisible",
    "HessianTerm",
    "Losses",
    "OracleStatistics",
    "average_statistics",
    "cross_statistics",
    "divided",
    "no_reduction",
]


class Losses(Protocol):
    """Both players' losses on one micro-batch."""

    def __call__(self, point: Point, wanted: frozenset[str], *, replay: bool) -> Mapping[str, Tensor]:
        """Evaluate the wanted losses; a replay has the same random numbers, and moves no buffer."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """Losses that can be evaluated on the first samples alone, in a replay."""

    def part(self, fraction: float) -> Losses:
        """Return the losses on a leading fraction of the samples."""
        ...


class CrossTerm(NamedTuple):
    """A term beside a gradient: `weight` · c_i, in one of three forms, for an opponent that moved by `displacement`.

    With a `fraction` below 1, c_i is estimated on the first samples of each micro-batch. The estimate is unbiased,
    because c_i is linear in the loss, which is a mean over samples.

    Example:
        >>> CrossTerm(weight=1.0, displacement=(torch.zeros(2),), form="own").form
        'own'
    """

    weight: float
    displacement: Vector
    form: CrossForm
    fraction: float = 1.0


class HessianTerm(NamedTuple):
    """One product of a Hessian block: (∂²L_loss / ∂θ_i ∂θ_column) · vector, for the player i that asks.

    Example:
        >>> HessianTerm(loss="x", column="y", vector=(torch.zeros(2),)).column
        'y'
    """

    loss: str
    column: str
    vector: Vector


class Contexts(NamedTuple):
    """The contexts in which derivatives are taken."""

    swap: Callable[[Point], AbstractContextManager[object]]  # other tensors in the networks' slots
    full_precision: Callable[[], AbstractContextManager[object]]  # without autocast, for reverse passes

    @contextmanager
    def full_float32(self) -> Iterator[None]:
        """Compute with neither autocast nor TF32, for gradients that are subtracted from each other."""
        with self.full_precision(), full_float32():
            yield


class Direction(NamedTuple):
    """A player's direction on one micro-batch, its loss, and the two terms of the direction where they are known."""

    vector: Vector  # g_i + weight · c_i
    loss: Tensor  # detached
    gradient: Vector | None = None  # g_i, beside a cross term
    term: Vector | None = None  # c_i

    def unscaled(self, scale: float) -> Direction:
        """That of the losses themselves, where they came multiplied by a scale; in at least float32."""
        if scale == 1.0:
            return self
        gradient, term = (None if part is None else divided(part, scale) for part in (self.gradient, self.term))
        return Direction(divided(self.vector, scale), self.loss / scale, gradient, term)


class Backend(Protocol):
    """A way to take the derivatives of one micro-batch; the numbers are the same by every backend."""

    def direction(
        self, player: str, point: Point, cross: CrossTerm | None, *, replay: bool, current: bool = False
    ) -> Direction:
        """g_i + weight·c_i; `current` if the players stand at the point, where fakes may be handed over."""
        ...


class OracleStatistics(NamedTuple):
    """One player's update on this rank in numbers: scalars, detached, still on the device.

    Norms are of the gradient and of the cross term before its weight. The last two are None without a cross term, and
    all three where the step is not inspected.

    Example:
        >>> OracleStatistics(torch.tensor(0.7), torch.tensor(1.0), None, None).cross_norm is None
        True
    """

    loss: Tensor
    gradient_norm: Tensor | None
    cross_norm: Tensor | None
    cosine: Tensor | None


def cross_statistics(loss: Tensor, grad: Vector, term: Vector) -> OracleStatistics:
    """Norms of a gradient and a cross term, and the cosine between them."""
    size, length = norm(grad), norm(term)
    cosine = inner(grad, term) / (size * length).clamp_min(torch.finfo(size.dtype).tiny)
    return OracleStatistics(loss, size, length, cosine)


def average_statistics(parts: Sequence[tuple[float, OracleStatistics]]) -> OracleStatistics:
    """Average the statistics of micro-batches by their weights."""
    if len(parts) == 1:
        return parts[0][1]
    columns = []
    for field in range(len(OracleStatistics._fields)):
        known = [(weight, value) for weight, stats in parts if (value := stats[field]) is not None]
        columns.append(torch.stack([weight * value for weight, value in known]).sum() if known else None)
    return OracleStatistics(*columns)  # type: ignore[arg-type]


def divided(vector: Vector, scale: float) -> Vector:
    """A vector divided by a scale, in at least float32: what a scale has lifted is too small for half precision."""
    if scale == 1.0:
        return vector
    wide = [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in vector]
    return tuple(torch._foreach_div(wide, scale))


def no_reduction(vector: Vector) -> Vector:
    """Return the vector itself, as the reduction of a single process."""
    return vector

"""Sets that a player's parameters stay in: a ball, a box, the simplex, numbers that are not negative.

    θ⁺ = P(θ'),               θ' where the optimizer would take θ, P the nearest point of the set
    θ⁺ ∝ θ · exp(θ' − θ)      a mirror step on the simplex; with SGD, θ' = θ − ηd, the exponentiated gradient

References: Kivinen and Warmuth, "Exponentiated Gradient versus Gradient Descent for Linear Predictors", 1997, for the
mirror step; Duchi, Shalev-Shwartz, Singer and Chandra, "Efficient Projections onto the ℓ1-Ball for Learning in High
Dimensions", ICML 2008, figure 1, for the projection on the simplex.
"""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.constraints.base import AbstractConstraint

__all__ = ["Box", "L2Ball", "LInfBall", "NonNegative", "Simplex", "box_of"]


@final
class Box(AbstractConstraint):
    """low ≤ θ ≤ high, element by element.

    Args:
        low: a number, or a tensor that broadcasts to the parameter; −inf for no bound.
        high: as `low`, and nowhere below it.

    Raises:
        ConfigurationError: a bound that is no number, or low above high.

    Example:
        >>> Box(0.0, 1.0).project(torch.tensor([-1.0, 0.5, 2.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    def __init__(self, low: float | Tensor, high: float | Tensor) -> None:
        check_arguments(Box, locals())
        below = torch.as_tensor(low) <= torch.as_tensor(high)  # false of NaN as well
        if not bool(below.all()):
            raise ConfigurationError(
                f"Cannot bound parameters by a box whose low is above its high; exchange them (got {low} and {high})"
            )
        self.low, self.high = low, high

    def __repr__(self) -> str:
        low, high = (f"{list(b.shape)}" if isinstance(b, Tensor) and b.dim() else b for b in (self.low, self.high))
        return f"Box({low}, {high})"

    def project(self, tensor: Tensor) -> Tensor:
        """Cut off what lies outside."""
        for bound, cut in ((self.low, torch.clamp_min), (self.high, torch.clamp_max)):
            tensor = cut(tensor, bound.to(tensor) if isinstance(bound, Tensor) else bound)
        return tensor


def box_of(low: Tensor, high: Tensor) -> Box:
    """Return a `Box` of bounds in order by construction: their check would wait for the device in every game step.

    Args:
        low: as of `Box`.
        high: nowhere below it.
    """
    box = Box.__new__(Box)
    box.low, box.high = low, high
    return box


@final
class LInfBall(AbstractConstraint):
    """|θ_k| ≤ radius for every element.

    Args:
        radius: ≥ 0, in the parameter's units.

    Raises:
        ConfigurationError: a radius out of its range.

    Example:
        >>> LInfBall(0.5).project(torch.tensor([-2.0, 0.1]))
        tensor([-0.5000,  0.1000])
    """

    def __init__(self, radius: float) -> None:
        check_arguments(LInfBall, locals())
        self.radius = _radius(radius)

    def __repr__(self) -> str:
        return f"LInfBall({self.radius:g})"

    def project(self, tensor: Tensor) -> Tensor:
        """Cut off what lies outside."""
        return tensor.clamp(-self.radius, self.radius)


@final
class L2Ball(AbstractConstraint):
    """‖θ‖₂ ≤ radius, of the whole tensor or of each sample.

    Args:
        radius: ≥ 0, in the parameter's units.
        per_sample: True for a ball of its own for each entry of the first dimension.

    Raises:
        ConfigurationError: a radius out of its range.

    Example:
        >>> L2Ball(1.0).project(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """

    def __init__(self, radius: float, *, per_sample: bool = False) -> None:
        check_arguments(L2Ball, locals())
        self.radius, self.per_sample = _radius(radius), bool(per_sample)

    def __repr__(self) -> str:
        return f"L2Ball({self.radius:g}, per_sample={self.per_sample})"

    def project(self, tensor: Tensor) -> Tensor:
        """Scale what is longer than the radius."""
        if not tensor.numel():
            return tensor.clone()
        rows = tensor.flatten(1) if self.per_sample and tensor.dim() > 1 else tensor.reshape(1, -1)
        if self.per_sample and tensor.dim() == 1:
            rows = tensor[:, None]
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        # a vector inside stays as it is, bit for bit; one on the edge is not scaled again by what rounding has left
        outside = length > self.radius * (1 + torch.finfo(tensor.dtype).eps)
        scale = torch.where(outside, self.radius / length.clamp_min(torch.finfo(tensor.dtype).tiny), 1.0)
        return (rows * scale).view_as(tensor)


@final
class NonNegative(AbstractConstraint):
    """θ ≥ 0 for every element, as a multiplier of a constraint is.

    Example:
        >>> NonNegative().project(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __repr__(self) -> str:
        return "NonNegative()"

    def project(self, tensor: Tensor) -> Tensor:
        """Put zeros in the place of negative numbers."""
        return tensor.clamp(min=0)


@final
class Simplex(AbstractConstraint):
    """θ ≥ 0 and Σ θ = 1 along the last dimension, as weights of groups are.

    Args:
        step: "projected" for the nearest point, in which weights can become zero and leave it again; "mirror" for
            θ⁺ ∝ θ · exp(θ' − θ), whose weights stay positive, and which moves a weight in proportion to itself.

    Example:
        >>> Simplex().project(torch.tensor([0.5, 0.9]))
        tensor([0.3000, 0.7000])
        >>> Simplex("mirror").move(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5 + math.log(3)]))
        tensor([0.2500, 0.7500])
    """

    def __init__(self, step: Literal["projected", "mirror"] = "projected") -> None:
        check_arguments(Simplex, locals())
        self.step = step

    def __repr__(self) -> str:
        return f"Simplex({self.step!r})"

    def project(self, tensor: Tensor) -> Tensor:
        """Subtract one number from all, such that the positive parts sum to 1."""
        tensor = tensor - tensor.amax(dim=-1, keepdim=True)  # the same point: large numbers would swallow the 1 below
        ordered = tensor.sort(dim=-1, descending=True).values
        excess = ordered.cumsum(-1) - 1
        counts = torch.arange(1, tensor.shape[-1] + 1, device=tensor.device, dtype=tensor.dtype)
        size = (ordered * counts > excess).sum(-1, keepdim=True).clamp(min=1)  # of NaN none is larger
        return (tensor - excess.gather(-1, size - 1) / size).clamp(min=0)

    def move(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the projection of `after`, or the mirror step of `after − before`."""
        if self.step == "projected":
            return self.project(after)
        # in logarithms, so that a long step overflows nowhere; a weight of zero stays zero
        return torch.softmax(before.log() + (after - before), dim=-1)


def _radius(radius: float) -> float:
    if not 0 <= radius < math.inf:
        raise ConfigurationError(
            f"Cannot bound parameters by a ball of a radius that is not finite and ≥ 0 (got {radius!r})"
        )
    return float(radius)

"""The Dirac-GAN, the smallest GAN that spins: one real sample at 0, one fake at x, a linear discriminator with slope y.

    logits:  real D(0) = 0,  fake t = x·y
    Lₓ = g(t),  Lᵧ = d(t) + const
    v = (y·g′, x·d′),   J = [[y²·g″, g′ + t·g″], [d′ + t·d″, x²·d″]]

    objective        g(t)              d(t)
    minimax          −softplus(t)      softplus(t)
    non_saturating   softplus(−t)      softplus(t)
    wasserstein      −t                t
    hinge            −t                max(0, 1 + t)

Reference: Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector
from lightning_lead.games.base import AbstractGame

__all__ = ["DiracGAN"]


class _Scalar(NamedTuple):
    """A function of the fake logit with its first two derivatives."""

    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]


def _sigmoid_slope(t: Tensor) -> Tensor:
    return torch.sigmoid(t) * torch.sigmoid(-t)


_SOFTPLUS = _Scalar(softplus, torch.sigmoid, _sigmoid_slope)
_MINUS_SOFTPLUS = _Scalar(lambda t: -softplus(t), lambda t: -torch.sigmoid(t), lambda t: -_sigmoid_slope(t))
_SOFTPLUS_OF_MINUS = _Scalar(lambda t: softplus(-t), lambda t: -torch.sigmoid(-t), _sigmoid_slope)
_MINUS = _Scalar(lambda t: -t, lambda t: -torch.ones_like(t), torch.zeros_like)
_IDENTITY = _Scalar(lambda t: t, torch.ones_like, torch.zeros_like)
_HINGE = _Scalar(lambda t: relu(1 + t), lambda t: (t > -1).to(t.dtype), torch.zeros_like)

_OBJECTIVES: dict[str, tuple[_Scalar, _Scalar, float]] = {  # generator, discriminator, the real sample's constant
    "minimax": (_MINUS_SOFTPLUS, _SOFTPLUS, math.log(2)),
    "non_saturating": (_SOFTPLUS_OF_MINUS, _SOFTPLUS, math.log(2)),
    "wasserstein": (_MINUS, _IDENTITY, 0.0),
    "hinge": (_MINUS, _HINGE, 1.0),
}


@final
class DiracGAN(AbstractGame):
    """GAN with one parameter each: x is where the generator puts its sample, y the slope of the discriminator.

    The losses are those of a GAN on the logits of one real sample (always 0) and one fake (x·y). The equilibrium is the
    origin: the fake on top of the real sample, a discriminator that cannot tell.

    Args:
        objective: "minimax", "non_saturating", "wasserstein" or "hinge", as in `lightning_lead.objectives`.
        dtype: floating-point type of the points made by this game.

    Raises:
        ConfigurationError: if the objective is not one of these.

    Example:
        At the equilibrium its Jacobian is a pure rotation, so small steps of gradient play circle it:

        >>> game = DiracGAN(objective="non_saturating")
        >>> game.jacobian(game.equilibrium()).tolist()
        [[0.0, -0.5], [0.5, 0.0]]
    """

    def __init__(self, *, objective: str = "non_saturating", dtype: torch.dtype = torch.float64) -> None:
        check_arguments(DiracGAN, locals())
        super().__init__(dimensions=(1, 1), dtype=dtype)
        if objective not in _OBJECTIVES:
            raise ConfigurationError(
                f"Cannot build DiracGAN because objective is not one whose losses are known in closed form; "
                f"pass one of {', '.join(_OBJECTIVES)} (got {objective!r})."
            )
        self.objective = objective
        self._generator, self._discriminator, self._real = _OBJECTIVES[objective]

    def losses(self, point: Point) -> dict[str, Tensor]:
        """See `AbstractGame.losses`: g(xy) for the generator; d(xy) plus the real sample's loss for the discriminator.

        Under "minimax" that constant also enters the generator's loss, with the other sign: exactly zero-sum.
        """
        x, y = self._vectors(point)
        logit = (x * y).sum()
        generator = self._generator.value(logit)
        if self.objective == "minimax":
            generator = generator - self._real
        return {"x": generator, "y": self._discriminator.value(logit) + self._real}

    def field(self, point: Point) -> dict[str, Vector]:
        """See `AbstractGame.field`: (y·g′, x·d′)."""
        x, y = self._vectors(point)
        return {"x": (y * self._generator.first(x * y),), "y": (x * self._discriminator.first(x * y),)}

    def jacobian(self, point: Point) -> Tensor:
        """See `AbstractGame.jacobian`: [[y²·g″, g′ + t·g″], [d′ + t·d″, x²·d″]] with t = xy."""
        x, y = self._vectors(point)
        t = x * y
        _, generator_slope, generator_bend = (f(t) for f in self._generator)
        _, discriminator_slope, discriminator_bend = (f(t) for f in self._discriminator)
        of_generator = torch.cat([y**2 * generator_bend, generator_slope + t * generator_bend])
        of_discriminator = torch.cat([discriminator_slope + t * discriminator_bend, x**2 * discriminator_bend])
        return torch.stack([of_generator, of_discriminator])  # (2, 2)

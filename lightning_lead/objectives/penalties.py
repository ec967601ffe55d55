"""Gradient penalties: a function of the slope of the discriminator's logits, added to its loss alone.

    penalty    at which points                          function
    R1         x, the reals                             (γ/2)·E ‖∇ₓD(x)‖²
    WGANGP     x̂ = εx + (1−ε)u, u fake, ε ~ U[0, 1]     λ·E (‖∇D(x̂)‖ − 1)²

E is the mean over samples, ∇ is with respect to one sample, ‖·‖ over all of its elements. Where D has several outputs
per sample, D stands for their sum. A D in which samples meet (batch norm) has no slope per sample; there the gradient
of the sum of all logits is taken.

R1 does not depend on the generator, so it enters no cross term, in neither form. WGANGP does, through x̂.

Cost: one forward pass of D, its gradient by the input, and the derivative of that by the weights: about twice the cost
of D on one batch without a penalty. All of it is computed with autocast off, in float32 under "bf16-mixed": a slope is
squared, and the gradient of the square is a second derivative.

References: Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018,
equation 9 (R1); Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, equation 3 (WGANGP).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError, DifferentiationError

__all__ = ["R1", "WGANGP", "AbstractPenalty"]


class AbstractPenalty(ABC):
    """A mean over samples of a function of ‖∇D‖², at points taken from reals and fakes; to be used as `penalty=`.

    A penalty of your own defines the points and the price of a slope:

    Example:
        >>> class R2(AbstractPenalty):  # as R1, on the fakes
        ...     looks_at_fakes = True
        ...     def points(self, real, fake, noise):
        ...         return fake
        ...     def price(self, squares):
        ...         return squares / 2
        >>> real, fake = torch.zeros(2, 3), torch.ones(4, 3)
        >>> R2()(lambda x: 2 * x.sum(1), real, fake).item()  # the slope is (2, 2, 2)
        6.0
    """

    looks_at_fakes: ClassVar[bool] = True
    """True if `points` depend on the fakes, so that the generator enters; fakes are handed to no other penalty."""

    @abstractmethod
    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | None) -> Tensor:
        """The points at which slopes are taken, (m, ...); the i-th one has the i-th real's label.

        Args:
            real: (m, ...).
            fake: as many; the reals once more, if `looks_at_fakes` is False.
            noise: to draw random numbers from; None for torch's global generator.
        """

    @abstractmethod
    def price(self, squares: Tensor) -> Tensor:
        """The penalty of each sample, (m,).

        Args:
            squares: ‖∇D‖² of each sample, (m,).
        """

    def __call__(
        self,
        discriminator: Callable[..., Tensor],
        real: Tensor,
        fake: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, a scalar; differentiable wherever gradients are enabled.

        Args:
            discriminator: samples[, labels] -> logits.
            real: real samples (n, ...).
            fake: fake samples (k, ...), if `looks_at_fakes`. They are paired with the reals in order; of unequal
                batches the first min(n, k) of both are taken.
            labels: of the reals (n,), for a discriminator that takes labels, or None.
            noise: to draw random numbers from; None for torch's global generator.

        Raises:
            ConfigurationError: no fakes for a penalty on fakes.
            DifferentiationError: the logits do not depend on the samples.
        """
        if fake is None and self.looks_at_fakes:
            raise ConfigurationError(
                f"Cannot take {type(self).__name__} because it looks at fakes and there are none; pass fake= "
                "(got fake=None)"
            )
        differentiable = torch.is_grad_enabled()
        # the slope is a derivative also where the penalty itself needs none, as in a validation loop
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
            real = _usable(real)
            fake = _usable(fake).to(real.dtype) if fake is not None and self.looks_at_fakes else real
            pairs = min(len(real), len(fake))
            points = self.points(real[:pairs], fake[:pairs], noise)
            if not points.requires_grad:
                points = points.detach().requires_grad_()
            # a view, because some tools refuse a leaf that is handed to a module and differentiated by
            seen = points.view_as(points)
            logits = discriminator(seen) if labels is None else discriminator(seen, labels[:pairs])
            slopes = _slopes(logits, points, create_graph=differentiable)
            wide = slopes.to(torch.promote_types(slopes.dtype, torch.float32)).reshape(len(points), -1)
            penalty = self.price(wide.square().sum(1)).mean()
        return penalty if differentiable else penalty.detach()


@final
@dataclass(frozen=True)
class R1(AbstractPenalty):
    """(γ/2)·E ‖∇ₓD(x)‖² on the reals: the discriminator becomes flat where the data are.

    Args:
        weight: γ, ≥ 0; half of it multiplies the squared slope, as in the paper. A code that has λ‖∇D‖² without the
            half means weight = 2λ.

    Raises:
        ConfigurationError: a weight out of its range.

    Example:
        >>> R1(weight=10.0)(lambda x: 2 * x.sum(1), torch.zeros(4, 3)).item()  # 10/2 · ‖(2, 2, 2)‖²
        60.0
    """

    looks_at_fakes: ClassVar[bool] = False

    weight: float = 10.0

    def __post_init__(self) -> None:
        _check_weight(self)

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | None) -> Tensor:
        """The reals."""
        return real

    def price(self, squares: Tensor) -> Tensor:
        """(γ/2)·‖∇D‖²."""
        return 0.5 * self.weight * squares


@final
@dataclass(frozen=True)
class WGANGP(AbstractPenalty):
    """λ·E (‖∇D(x̂)‖ − 1)² between reals and fakes: the discriminator's slope is pulled towards 1.

    It belongs to the "wasserstein" objective. Each sample has its own ε.

    Args:
        weight: λ, ≥ 0.

    Raises:
        ConfigurationError: a weight out of its range.

    Example:
        >>> real, fake = torch.zeros(4, 1), torch.ones(4, 1)
        >>> WGANGP(weight=10.0)(lambda x: 3 * x.sum(1), real, fake).item()  # 10 · (3 − 1)²
        40.0
    """

    looks_at_fakes: ClassVar[bool] = True

    weight: float = 10.0

    def __post_init__(self) -> None:
        _check_weight(self)

    def points(self, real: Tensor, fake: Tensor, noise: torch.Generator | None) -> Tensor:
        """x̂ = εx + (1−ε)u."""
        share = torch.rand(len(real), generator=noise, device=real.device, dtype=real.dtype)
        share = share.reshape(-1, *[1] * (real.dim() - 1))
        return share * real + (1 - share) * fake

    def price(self, squares: Tensor) -> Tensor:
        """λ·(‖∇D‖ − 1)²."""
        # a slope of zero (every unit of a ReLU network is off) has no direction: there the derivative is taken as zero,
        # in every order, and not as the 0/0 of a square root
        flat = squares == 0
        lengths = squares.masked_fill(flat, 1.0).sqrt().masked_fill(flat, 0.0)
        return self.weight * (lengths - 1).square()


def _check_weight(penalty: R1 | WGANGP) -> None:
    weight = penalty.weight
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise ConfigurationError(
            f"Cannot use {type(penalty).__name__}(weight=...) because it must be a finite number ≥ 0 (a negative one "
            f"would reward steepness); try 10.0 (got {weight!r})"
        )


def _usable(samples: Tensor) -> Tensor:
    """The samples, copied if they come from inference mode, because those cannot be differentiated by."""
    return samples.clone() if samples.is_inference() else samples


def _slopes(logits: Tensor, points: Tensor, *, create_graph: bool) -> Tensor:
    slopes = None
    if logits.requires_grad:
        # each logit depends on its own sample, so the gradient of the sum holds every sample's own
        (slopes,) = torch.autograd.grad(logits.sum(), points, create_graph=create_graph, allow_unused=True)
    if slopes is None:
        raise DifferentiationError(
            "Cannot take a gradient penalty because the discriminator's logits do not depend on its input; let the "
            "input reach them without detach() or no_grad(), or leave the penalty out "
            f"(got logits of shape {tuple(logits.shape)} from samples of shape {tuple(points.shape)})"
        )
    return slopes

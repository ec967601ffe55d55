"""R1 and R2 by finite differences, which need no second derivative: (γ/2)·E (D(x + σε) − D(x))²/σ², ε ~ N(0, 1).

Sharded parameters, reentrant checkpoints and fused layers allow them; they cost two forward passes of D.

Reference: Lin et al., "Diffusion Adversarial Post-Training for One-Step Video Generation", 2025, section 3.4.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead.objectives._penalty_settings import check_weight
from lightning_lead.objectives.penalties import AbstractPenalty, labelled_fakes

__all__ = ["ApproximateR1", "ApproximateR2"]


@dataclass(frozen=True)
class _Approximate(AbstractPenalty):
    weight: float = 10.0
    sigma: float = 0.01
    every: int = 1

    def __post_init__(self) -> None:
        check_weight(self)
        sigma = self.sigma
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not math.isfinite(sigma) or sigma <= 0:
            raise ConfigurationError(
                f"Cannot use {type(self).__name__}(sigma=...) because it is the length of a step; pass a finite number "
                f"> 0, as 0.01 (got {sigma!r})"
            )

    def __call__(
        self,
        discriminator: Callable[..., Tensor],
        real: Tensor,
        fake: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, a scalar."""
        samples, labels = self._samples(real, fake, labels)
        return 0.5 * self.weight * _steepness(discriminator, samples, labels, self.sigma, noise)

    @abstractmethod
    def _samples(self, real: Tensor, fake: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Choose where D's slope is taken, with labels."""


@final
@dataclass(frozen=True)
class ApproximateR1(_Approximate):
    """(γ/2)·E (D(x + σε) − D(x))²/σ², whose mean over ε tends to R1 of the same weight as σ → 0.

    It needs no second derivative. A D with dropout adds its noise to the difference.

    Args:
        weight: γ, ≥ 0.
        sigma: σ > 0, in units of the samples; so small that D is nearly linear, and so large that D's rounding is not
            seen.
        every: k ≥ 1: only every k-th update of the discriminator has it, k times as heavy.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.zeros(10_000, 3)
        >>> round(ApproximateR1(weight=10.0)(lambda x: 2 * x.sum(1), x).item())  # R1: 60
        61
    """

    looks_at_fakes: ClassVar[bool] = False

    def _samples(self, real: Tensor, fake: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return real, labels


@final
@dataclass(frozen=True)
class ApproximateR2(_Approximate):
    """(γ/2)·E (D(u + σε) − D(u))²/σ² on the fakes; see `ApproximateR1`.

    Args:
        weight: γ, ≥ 0.
        sigma: σ > 0, in units of the samples.
        every: k ≥ 1: only every k-th update of the discriminator has it, k times as heavy.

    Raises:
        ConfigurationError: a setting out of its range; no fakes.

    Example:
        >>> ApproximateR2(weight=10.0)(lambda x: 0 * x.sum(1), torch.zeros(4, 3), torch.ones(4, 3)).item()
        0.0
    """

    def _samples(self, real: Tensor, fake: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return labelled_fakes(self, fake, labels)


def _steepness(
    discriminator: Callable[..., Tensor],
    samples: Tensor,
    labels: Tensor | None,
    sigma: float,
    noise: torch.Generator | None,
) -> Tensor:
    """E (D(x + σε) − D(x))²/σ², in full precision, because nearly equal logits are subtracted."""
    with torch.autocast(samples.device.type, enabled=False):
        step = torch.randn(samples.shape, generator=noise, device=samples.device, dtype=samples.dtype)
        seen = [samples, samples + sigma * step]
        here, there = (discriminator(x) if labels is None else discriminator(x, labels) for x in seen)
        slopes = ((there - here) / sigma).reshape(len(samples), -1).sum(1)
        return slopes.to(torch.promote_types(slopes.dtype, torch.float32)).square().mean()

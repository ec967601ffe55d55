"""Penalties that are added to the generator's loss alone: the length of the paths of StyleGAN2.

    λ·E (‖J_wᵀ y‖ − a)²,   y ~ N(0, 1)/√(pixels),   a ← decay·a + (1 − decay)·E ‖J_wᵀ y‖   before each evaluation

w are the styles, G.mapping(z), and J_w is the Jacobian of G.synthesis there, so that steps of one size in w move the
image equally far. The length a is a constant of the update, an average over this rank's micro-batches; it stays in eval
mode, and while the discriminator moves alone.

A penalty of the generator does not depend on the discriminator, so it enters no cross term. Cost: a forward of G, its
gradient by the styles, and the derivative of that by the weights. It is computed with autocast off.

Reference: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, section 3.2, appendix B.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import DifferentiationError
from lightning_lead.objectives._penalty_settings import check_decay, check_weight
from lightning_lead.objectives.penalties import lengths_of, usable

__all__ = ["AbstractGeneratorPenalty", "PathLength"]


class AbstractGeneratorPenalty(ABC):
    """A mean over samples that is added to the generator's loss; to be used as `generator_penalty=`.

    Example:
        >>> class SmallStyles(AbstractGeneratorPenalty):
        ...     def __call__(self, mapping, synthesis, latents, *, noise=None):
        ...         return mapping(latents).square().mean()
        >>> SmallStyles()(lambda z: 2 * z, lambda w: w, torch.ones(2, 3)).item()
        4.0
    """

    every: int = 1
    """k ≥ 1: it is a part of every k-th update of the generator, k times as heavy."""

    @abstractmethod
    def __call__(
        self,
        mapping: Callable[[Tensor], Tensor],
        synthesis: Callable[[Tensor], Tensor],
        latents: Tensor,
        *,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, a scalar; differentiable wherever gradients are enabled.

        Args:
            mapping: latents -> styles, the generator's `mapping`; one without it has the latents themselves.
            synthesis: styles -> fakes, the generator's `synthesis`; or else the generator. Labels are given to both.
            latents: (k, latent_dim), those of the update.
            noise: to draw random numbers from; None for torch's global generator.
        """


@final
class PathLength(AbstractGeneratorPenalty, nn.Module):
    """λ·E (‖J_wᵀ y‖ − a)²; the average length a is the buffer `length`, so checkpoints have it.

    Args:
        weight: λ, ≥ 0.
        decay: of the average length, in [0, 1).
        every: k ≥ 1: only every k-th update of the generator has it, k times as heavy.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> penalty = PathLength(weight=2.0, decay=0.0)
        >>> value = penalty(lambda z: z, lambda w: w, torch.zeros(1, 3))  # one sample is as long as the mean
        >>> value.item(), penalty.length.item() > 0
        (0.0, True)
    """

    length: Tensor

    def __init__(self, weight: float = 2.0, decay: float = 0.99, every: int = 4) -> None:
        check_arguments(PathLength, locals())
        super().__init__()
        self.weight, self.decay, self.every = weight, decay, every
        check_weight(self, of="generator")
        check_decay(decay)
        self.register_buffer("length", torch.zeros(()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PathLength:
        """Keep the average in float32 at least: small steps of it would be rounded away."""
        super()._apply(fn, recurse)
        self.length = self.length.to(torch.promote_types(self.length.dtype, torch.float32))
        return self

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"weight={self.weight}, decay={self.decay}, every={self.every}"

    def __call__(
        self,
        mapping: Callable[[Tensor], Tensor],
        synthesis: Callable[[Tensor], Tensor],
        latents: Tensor,
        *,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, a scalar; in train mode the average length moves first.

        Args:
            mapping: latents -> styles, (k, d) or, of several layers, (k, layers, d).
            synthesis: styles -> fakes (k, channels, ...).
            latents: (k, latent_dim).
            noise: to draw y from; None for torch's global generator.

        Raises:
            DifferentiationError: the fakes do not depend on the styles.
        """
        differentiable = torch.is_grad_enabled()
        # a length is a derivative also where the penalty itself needs none, as in a validation loop
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(latents.device.type, enabled=False):
            styles = mapping(usable(latents))
            if not styles.requires_grad:
                styles = styles.detach().requires_grad_()
            fakes = synthesis(styles.view_as(styles))  # some tools refuse a leaf that is differentiated by
            y = torch.randn(fakes.shape, generator=noise, device=fakes.device, dtype=fakes.dtype)
            along = (fakes * y).sum() / math.sqrt(math.prod(fakes.shape[2:]))
            slopes = None
            if along.requires_grad:
                (slopes,) = torch.autograd.grad(along, styles, create_graph=differentiable, allow_unused=True)
            if slopes is None:
                raise DifferentiationError(
                    "Cannot take the length of paths because the fakes do not depend on the generator's styles; let "
                    "them reach the fakes without detach() or no_grad(), or leave the penalty out "
                    f"(got fakes of shape {tuple(fakes.shape)} from styles of shape {tuple(styles.shape)})"
                )
            squares = slopes.to(torch.promote_types(slopes.dtype, torch.float32)).square().sum(-1)
            lengths = lengths_of(squares.reshape(len(squares), -1).mean(1))
            if self.training:
                self.length.lerp_(lengths.detach().mean().to(self.length.dtype), 1 - self.decay)
            # a copy, because the average moves again before the graph is gone
            penalty = self.weight * (lengths - self.length.clone()).square().mean()
        return penalty if differentiable else penalty.detach()

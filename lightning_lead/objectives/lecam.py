"""LeCam's penalty: logits of reals are kept near the average of those of fakes, and the other way round.

    λ·(E (D(x) − α_u)² + E (D(u) − α_x)²),   α ← decay·α + (1 − decay)·E D   before each evaluation

It helps where there are few data; α_x and α_u are constants of the update. They are averages over this rank's
micro-batches, and stay in eval mode and in the generator's turn.

Reference: Tseng, Jiang, Liu, Yang and Yang, "Regularizing Generative Adversarial Networks under Limited Data", CVPR
2021, equation 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead.objectives._penalty_settings import check_decay, check_weight
from lightning_lead.objectives.penalties import AbstractPenalty, labelled_fakes

__all__ = ["LeCam"]


@final
class LeCam(AbstractPenalty, nn.Module):
    """λ·(E (D(x) − α_u)² + E (D(u) − α_x)²); its averages are buffers, so checkpoints have them.

    Args:
        weight: λ, ≥ 0.
        decay: of the averages, in [0, 1).
        every: k ≥ 1: only every k-th update of the discriminator has it, k times as heavy.

    Raises:
        ConfigurationError: a setting out of its range; no fakes.

    Example:
        >>> penalty = LeCam(weight=1.0, decay=0.5)
        >>> real, fake = torch.full((4, 1), 2.0), torch.zeros(4, 1)
        >>> penalty(lambda x: x.sum(1), real, fake).item()  # (2 − 0)² + (0 − 1)²
        5.0
    """

    of_reals: Tensor
    of_fakes: Tensor

    def __init__(self, weight: float = 0.01, decay: float = 0.99, every: int = 1) -> None:
        check_arguments(LeCam, locals())
        super().__init__()
        self.weight, self.decay, self.every = weight, decay, every
        check_weight(self)
        check_decay(decay)
        self.register_buffer("of_reals", torch.zeros(()))
        self.register_buffer("of_fakes", torch.zeros(()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LeCam:
        """Keep the averages in float32 at least: small steps of them would be rounded away."""
        super()._apply(fn, recurse)
        for name in ("of_reals", "of_fakes"):
            average = getattr(self, name)
            setattr(self, name, average.to(torch.promote_types(average.dtype, torch.float32)))
        return self

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"weight={self.weight}, decay={self.decay}, every={self.every}"

    def __call__(
        self,
        discriminator: Callable[..., Tensor],
        real: Tensor,
        fake: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, a scalar; in train mode the averages move first."""
        fakes, fake_labels = labelled_fakes(self, fake, labels)
        r = discriminator(real) if labels is None else discriminator(real, labels)
        t = discriminator(fakes) if fake_labels is None else discriminator(fakes, fake_labels)
        if self.training:
            with torch.no_grad():
                self.of_reals.lerp_(r.mean().to(self.of_reals.dtype), 1 - self.decay)
                self.of_fakes.lerp_(t.mean().to(self.of_fakes.dtype), 1 - self.decay)
        # copies, because the averages move again before the graph is gone
        of_reals, of_fakes = self.of_reals.clone(), self.of_fakes.clone()
        return self.weight * ((r - of_fakes).square().mean() + (t - of_reals).square().mean())

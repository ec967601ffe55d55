"""Labels in networks: through the norms of a generator, and by a projection in a discriminator.

    norm of class y      x ↦ γ_y x̂ + β_y,      x̂ the batch-normalized x
    projection           logit = ψ(φ) + ⟨e_y, φ⟩,      φ the features of an image

e_y is a row of a linear layer without bias, which is applied as a whole and then read at the label: that is the same
number as a look-up of e_y, and the discriminator stays one of linear layers and convolutions, which LEAD's exact cross
term goes through fastest.

References: de Vries et al., "Modulating early visual processing by language", NeurIPS 2017; Miyato and Koyama, "cGANs
with Projection Discriminator", ICLR 2018, equation 4.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError

__all__ = ["ConditionalNorm", "check_labels", "projected"]


def check_labels(name: str, labels: Tensor | None, num_classes: int | None, batch: int) -> None:
    """Refuse labels that are missing, or not wanted, or of another shape or type.

    The values are not looked at: that would make a GPU wait.
    """
    if num_classes is None:
        if labels is not None:
            raise ConfigurationError(
                f"Cannot use labels because this {name} is unconditional; build it with num_classes= or leave the "
                f"labels out (got labels of shape {tuple(labels.shape)})."
            )
        return
    if labels is None:
        raise ConfigurationError(
            f"Cannot evaluate {name} without labels because it is conditional; pass labels of shape ({batch},), each "
            f"in 0..{num_classes - 1} (got None)."
        )
    if labels.dtype not in (torch.int64, torch.int32) or labels.shape != (batch,):
        raise ConfigurationError(
            f"Cannot look up the labels of {name} because they must be integers (int64), one per sample; pass shape "
            f"({batch},) (got {tuple(labels.shape)} of {labels.dtype})."
        )


@final
class ConditionalNorm(nn.Module):
    """A norm whose scale and shift are those of the sample's class; at the start 1 and 0 for all.

    Args:
        width: channels, ≥ 1.
        num_classes: number of labels, ≥ 1.
        batch: normalize by the batch first; False scales and shifts alone.

    Example:
        >>> norm = ConditionalNorm(2, 3)
        >>> norm(torch.randn(4, 2, 5, 5), torch.tensor([0, 1, 2, 0])).shape
        torch.Size([4, 2, 5, 5])
    """

    def __init__(self, width: int, num_classes: int, *, batch: bool = True) -> None:
        check_arguments(ConditionalNorm, locals())
        check_positive(width=width, num_classes=num_classes)
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False) if batch else nn.Identity()
        self.scale, self.shift = nn.Embedding(num_classes, width), nn.Embedding(num_classes, width)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Of the shape of x.

        Args:
            x: (n, width, H, W).
            labels: (n,) integers.
        """
        scale, shift = self.scale(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]  # (n, width, 1, 1)
        out: Tensor = self.norm(x) * scale + shift
        return out


def projected(projection: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """⟨e_y, φ⟩, (n,)."""
    every: Tensor = projection(features)  # (n, classes)
    chosen = labels[:, None] == torch.arange(every.shape[1], device=labels.device)
    return (every * chosen.to(every.dtype)).sum(1)

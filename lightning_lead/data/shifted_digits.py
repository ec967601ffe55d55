"""Digits and shifted digits: labelled ones, and inverted or turned other ones, whose labels are to be found.

    inverted  x' = −x            turned  x'(p) = x(R(angle)⁻¹ p), bilinear, paper around the image

Reference: the pairs of digit data sets of Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lightning_lead._arguments import check_arguments
from lightning_lead.data._domain_base import AbstractDomainDataModule, DomainSamples
from lightning_lead.data.digits import DigitsDataModule
from lightning_lead.data.moons import check_angle, turn_matrix

__all__ = ["ShiftedDigitsDataModule"]


@final
class ShiftedDigitsDataModule(AbstractDomainDataModule):
    """Batches (images, labels, domains) of digits and of shifted other digits, in equal shares.

    Images are float32 (n, 1, image_size, image_size) in [−1, 1], labels int64 (n,) in 0..9, and −1 for the shifted ones
    ("target", domain 1). Half of scikit-learn's 1,797 digits, chosen by the seed, are the source, the others the
    target. Labels of the target are known for scoring alone, on the images that are seen without a label.

    Args:
        shift: "inverted", dark and light exchanged, or "rotated".
        angle: of "rotated", degrees counterclockwise, not 0.
        batch_size: samples per training batch and rank, even, or None for all of them.
        validation: share of the source that is kept for selection, in [0, 0.9].
        seed: of the halves, the parts and the order, ≥ 0.
        num_workers: loader processes, ≥ 0.
        image_size: pixels along one side: 8, or 16 or 32 by bilinear interpolation.

    Attributes:
        domains: ("source", "target"); the second is `held_out`.
        image_shape: (1, image_size, image_size).
        image_range: (−1.0, 1.0).
        num_groups: 2.
        num_classes: 10.

    Raises:
        ConfigurationError: a setting out of its range, or no scikit-learn.

    Example:
        >>> digits = ShiftedDigitsDataModule(shift="inverted", batch_size=8)
        >>> images, labels, domains = next(iter(digits.train_dataloader()))
        >>> images.shape, labels[1::2].tolist(), domains.tolist()
        (torch.Size([8, 1, 8, 8]), [-1, -1, -1, -1], [0, 1, 0, 1, 0, 1, 0, 1])
    """

    image_range: tuple[float, float] = (-1.0, 1.0)
    num_classes: int = 10

    def __init__(
        self,
        *,
        shift: Literal["inverted", "rotated"] = "inverted",
        angle: float = 45.0,
        batch_size: int | None = 128,
        validation: float = 0.2,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 8,
    ) -> None:
        check_arguments(ShiftedDigitsDataModule, locals())
        super().__init__(
            domains=("source", "target"),
            held_out="target",
            batch_size=batch_size,
            validation=validation,
            seed=seed,
            num_workers=num_workers,
            adapts=True,
        )
        self.shift, self.angle = shift, check_angle(angle, "it is the angle of the target in degrees")
        self._digits = DigitsDataModule(image_size=image_size)
        self.image_shape = (1, image_size, image_size)

    def load(self) -> Sequence[DomainSamples]:
        """Half of the digits, and the other half shifted."""
        images, labels = self._digits.tensors()
        order = self._order("halves", len(images))
        half = len(order) // 2
        source, target = order[:half], order[half:]
        moved = -images[target] if self.shift == "inverted" else _turned(images[target], self.angle)
        return [DomainSamples(images[source], labels[source]), DomainSamples(moved, labels[target])]


def _turned(images: Tensor, angle: float) -> Tensor:
    """Turn images counterclockwise as they are seen, with the lowest value around them."""
    # rows of an image run downwards, so the grid's turn by +angle shows the image turned the other way round
    turn = torch.cat([turn_matrix(angle), torch.zeros(2, 1).double()], dim=1).float().expand(len(images), 2, 3)
    paper = images.amin()
    grid = affine_grid(turn, list(images.shape), align_corners=False)
    return grid_sample(images - paper, grid, align_corners=False) + paper

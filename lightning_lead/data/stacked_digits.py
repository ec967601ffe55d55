"""Stacked digits: three of scikit-learn's digits as the channels of one image, 1,000 modes that can be counted.

    class 100a + 10b + c  →  (an a, a b, a c),   each drawn among the images of that digit

The small sibling of stacked MNIST, with which one counts how many modes a generator finds; see `metrics.Modes`.

Reference: Metz et al., "Unrolled Generative Adversarial Networks", ICLR 2017, section 3.3.1 (stacked MNIST).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count
from lightning_lead.data._base import AbstractTensorDataModule
from lightning_lead.data.digits import DigitsDataModule

__all__ = ["StackedDigitsDataModule"]


@final
class StackedDigitsDataModule(AbstractTensorDataModule):
    """Batches (images, labels) of three digits as channels; each of the 1,000 classes has as many images, ±1.

    Images are float32 (n, 3, image_size, image_size) in [−1, 1], labels int64 (n,) in 0..999. They are drawn once.

    Args:
        num_images: size of the data set, ≥ 1.
        batch_size: samples per training batch and rank, ≥ 1; the last batch is dropped if it is not full.
        seed: of the images and of the order of the training batches, ≥ 0.
        num_workers: loader processes, ≥ 0. The images lie in memory, so 0 is usually fastest.
        image_size: pixels along one side: 8, or 16 or 32 by bilinear interpolation.
        num_predict: samples that `trainer.predict` makes, ≥ 1.

    Attributes:
        image_shape: (3, image_size, image_size).
        image_range: (−1.0, 1.0).
        num_classes: 1,000.

    Raises:
        ConfigurationError: a setting out of its range, or no scikit-learn.

    Example:
        >>> data = StackedDigitsDataModule(num_images=2000)
        >>> images, labels = data.tensors()
        >>> images.shape, labels.bincount().unique()
        (torch.Size([2000, 3, 8, 8]), tensor([2]))
    """

    image_range: tuple[float, float] = (-1.0, 1.0)
    num_classes: int = 1000

    def __init__(
        self,
        *,
        num_images: int = 20_000,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 8,
        num_predict: int = 64,
    ) -> None:
        check_arguments(StackedDigitsDataModule, locals())
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers, num_predict=num_predict)
        check_count("StackedDigitsDataModule", "num_images", num_images)
        self._digits = DigitsDataModule(image_size=image_size)
        self.num_images, self.image_size = num_images, image_size
        self.image_shape = (3, image_size, image_size)

    def load(self) -> tuple[Tensor, ...]:
        """Images and labels."""
        digits, names = self._digits.tensors()
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.arange(self.num_images) % self.num_classes
        wanted = torch.stack([labels // 100, labels // 10 % 10, labels % 10], dim=1)  # (n, 3)
        order = names.argsort(stable=True)  # the images of each digit, one digit after the other
        counts = names.bincount()
        first = counts.cumsum(0) - counts
        drawn = (torch.rand(wanted.shape, generator=generator, dtype=torch.float64) * counts[wanted]).long()
        return digits[order[first[wanted] + drawn]].squeeze(2), labels

    def reference_images(self) -> Tensor:
        """Return the images that metrics compare samples with, all of them, in order."""
        return self.tensors()[0]

    def reference_labels(self) -> Tensor:
        """The labels of `reference_images`."""
        return self.tensors()[1]

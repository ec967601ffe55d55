"""Scikit-learn's handwritten digits: 1,797 grey images of 8×8 pixels, labelled 0 to 9, inside its package.

    pixel d in 0..16  →  x = d/8 − 1 in [−1, 1]  →  uint8 for metrics: round((x + 1) · 127.5)

Reference: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its
test part).
"""

from __future__ import annotations

import importlib.util
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, TensorDataset

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._base import AbstractTensorDataModule

__all__ = ["DigitsDataModule"]

_SIZES = (8, 16, 32)
_COUNT = 1797


@final
class DigitsDataModule(AbstractTensorDataModule):
    """Batches (images, labels) of scikit-learn's digits; all 1,797 are training data, unless some are held out.

    Images are float32 (n, 1, image_size, image_size) in [−1, 1], labels int64 (n,).

    Args:
        batch_size: samples per training batch and rank, ≥ 1; the last batch is dropped if it is not full.
        seed: of the order of the training batches, ≥ 0.
        num_workers: loader processes, ≥ 0. The images lie in memory, so 0 is usually fastest.
        image_size: pixels along one side: 8, or 16 or 32 by bilinear interpolation.
        num_predict: samples that `trainer.predict` makes, ≥ 1.
        held_out: digits that are not trained on and are all the validation and test data, ≥ 0 and fewer than there
            are; the same ones for every seed. With 0 a generator is validated on what it learns from.

    Attributes:
        image_shape: (1, image_size, image_size).
        image_range: (−1.0, 1.0).
        num_classes: 10.

    Raises:
        ConfigurationError: a setting out of its range, or no scikit-learn.

    Example:
        >>> digits = DigitsDataModule(batch_size=64)
        >>> images, labels = next(iter(digits.train_dataloader()))
        >>> images.shape, images.min().item(), images.max().item()
        (torch.Size([64, 1, 8, 8]), -1.0, 1.0)
    """

    image_range: tuple[float, float] = (-1.0, 1.0)
    num_classes: int = 10

    def __init__(
        self,
        *,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        image_size: int = 8,
        num_predict: int = 64,
        held_out: int = 0,
    ) -> None:
        check_arguments(DigitsDataModule, locals())
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers, num_predict=num_predict)
        if image_size not in _SIZES:
            raise ConfigurationError(
                f"Cannot build DigitsDataModule because the digits are 8×8 and grow by doubling; pass an image_size of "
                f"{', '.join(map(str, _SIZES))} (got {image_size!r})."
            )
        if importlib.util.find_spec("sklearn") is None:
            raise ConfigurationError(
                "Cannot build DigitsDataModule because scikit-learn, which carries the images, is not installed; run "
                "`pip install lightning-lead[digits]` (got no module named sklearn)."
            )
        if not 0 <= held_out < _COUNT:
            raise ConfigurationError(
                f"Cannot build DigitsDataModule because it has {_COUNT:,} digits, and some must be left to train on; "
                f"pass held_out from 0 to {_COUNT - 1:,} (got {held_out!r})."
            )
        self.image_size, self.held_out = image_size, held_out
        self.image_shape = (1, image_size, image_size)

    def load(self) -> tuple[Tensor, ...]:
        """Images and labels."""
        from sklearn.datasets import load_digits  # an extra

        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
        if self.image_size != 8:
            images = interpolate(images, size=self.image_size, mode="bilinear", align_corners=False)
        return images, torch.tensor(labels, dtype=torch.int64)

    def train_dataset(self) -> Dataset[Any]:
        """The digits that are trained on."""
        return self._part(slice(self.held_out, None))

    def val_dataset(self) -> Dataset[Any]:
        """The digits that are held out, or all of them if none are."""
        return self._part(slice(self.held_out or None))

    def _part(self, part: slice) -> Dataset[Any]:
        if not self.held_out:
            return TensorDataset(*self.tensors())
        # the digits come writer by writer, and are drawn from all of them
        order = torch.randperm(_COUNT, generator=torch.Generator().manual_seed(0))[part]
        return TensorDataset(*(tensor[order] for tensor in self.tensors()))

    def reference_images(self) -> Tensor:
        """Return the images that metrics compare samples with, all (1797, 1, image_size, image_size), in order."""
        return self.tensors()[0]

    def reference_labels(self) -> Tensor:
        """The labels (1797,) of `reference_images`."""
        return self.tensors()[1]

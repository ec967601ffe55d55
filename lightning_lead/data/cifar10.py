"""CIFAR-10: 50,000 training and 10,000 test images of 32×32 pixels in 10 classes.

Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._image_base import AbstractImageDataModule
from lightning_lead.data._image_cache import map_images
from lightning_lead.fetch import fetch_cifar10, find_cifar10

__all__ = ["CIFAR10DataModule"]


@final
class CIFAR10DataModule(AbstractImageDataModule):
    """Batches (images, labels) of CIFAR-10's training split.

    Images are float32 (n, 3, 32, 32) in [−1, 1], labels int64 (n,). Whoever loads them and wherever, batch k of epoch e
    is the same to the bit: order, flips and noise are functions of the seed, the epoch and the sample.

    Args:
        batch_size: images per training batch and rank, ≥ 1; the last batch is dropped if it is not full.
        seed: of the order, the flips and the noise, ≥ 0.
        folder: where `lightning-lead fetch cifar10 --folder` put it; default the store.
        root: a folder that has torchvision's `cifar-10-batches-py`, looked at if `folder` has nothing.
        download: fetch it if it is not there, on one process per node.
        reference: the split that samples are compared with, "train" or "test".
        flip: mirror half of the training images.
        noise: width of the uniform noise on training images, ≥ 0; 1/128 in SNGAN's recipe.
        subset: the first so many images of each split only, ≥ 1, or None.
        num_workers: loader processes, ≥ 0. A batch is cut and converted in one go, so 0 is often fastest.
        pin_memory: hand batches over in pinned memory, where there is a CUDA device.
        on_device: keep the training split (150 MB) on the training device and cut the batches there.
        num_predict: samples that `trainer.predict` makes, ≥ 1.

    Attributes:
        image_shape: (3, 32, 32).
        image_range: (−1.0, 1.0).
        num_classes: 10.

    Raises:
        ConfigurationError: a setting out of its range, or no data and `download=False`.

    Example:
        >>> CIFAR10DataModule(folder="a folder to be", download=True, flip=True, noise=1 / 128).image_shape
        (3, 32, 32)
        >>> CIFAR10DataModule(folder="no such folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_lead._errors.ConfigurationError: Cannot find CIFAR-10 because it has not been fetched; ...
    """

    image_shape: tuple[int, int, int] = (3, 32, 32)
    num_classes: int = 10

    def __init__(
        self,
        *,
        batch_size: int = 64,
        seed: int = 0,
        folder: str | None = None,
        root: str | None = None,
        download: bool = False,
        reference: str = "train",
        flip: bool = False,
        noise: float = 0.0,
        subset: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = True,
        on_device: bool = False,
        num_predict: int = 64,
    ) -> None:
        check_arguments(CIFAR10DataModule, locals())
        super().__init__(
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            num_predict=num_predict,
            flip=flip,
            noise=noise,
            subset=subset,
            pin_memory=pin_memory,
            on_device=on_device,
        )
        if reference not in ("train", "test"):
            raise ConfigurationError(
                "Cannot build CIFAR10DataModule because the reference is one of its splits; pass reference='train' or "
                f"'test' (got {reference!r})"
            )
        self.folder, self.root, self.download, self.reference = folder, root, download, reference
        if not download:
            self._place()  # what is missing shows now

    def prepare_data(self) -> None:
        """Fetch the data if that is asked for and needed; Lightning calls this on one process per node."""
        if self.download and not (self.root and self._in_root()):
            fetch_cifar10(self.folder)

    def reference_split(self) -> str:
        """The split that samples are compared with."""
        return self.reference

    def load(self, split: str) -> tuple[Tensor, Tensor | None]:
        """Images and labels of a split, memory-mapped from the store.

        Args:
            split: "train" or "test".
        """
        root = self._place()
        if root is None:
            from torchvision.datasets import CIFAR10

            read = CIFAR10(self.root, train=split == "train")
            return torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(read.targets)
        return map_images(root / f"{split}_images.npy"), torch.from_numpy(np.load(root / f"{split}_labels.npy"))

    def _place(self) -> Path | None:
        """The folder of the store, or None if torchvision's is to be read."""
        root = find_cifar10(self.folder)
        if root is None and not self._in_root():
            looked = [str(self.folder or "the store"), *([self.root] if self.root else [])]
            raise ConfigurationError(
                "Cannot find CIFAR-10 because it has not been fetched; run `lightning-lead fetch cifar10`, or pass "
                f"download=True (got nothing in {' and '.join(looked)})"
            )
        return root

    def _in_root(self) -> bool:
        return self.root is not None and (Path(self.root) / "cifar-10-batches-py").is_dir()

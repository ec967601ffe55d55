"""A data module of images that are kept as bytes: augmentation, dequantisation noise, and a copy on the device."""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_lead._checks import check_count
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._base import AbstractGANDataModule
from lightning_lead.data._byte_images import ByteImages, batch_as_it_is

__all__ = ["AbstractImageDataModule"]


class AbstractImageDataModule(AbstractGANDataModule):
    """Batches (images, labels) or (images,): float32 (n, C, H, W) in [−1, 1], int64 (n,)."""

    image_range: tuple[float, float] = (-1.0, 1.0)

    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        num_workers: int,
        num_predict: int,
        flip: bool,
        noise: float,
        subset: int | None,
        pin_memory: bool,
        on_device: bool,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers, num_predict=num_predict)
        name = type(self).__name__
        if not 0 <= noise < math.inf:
            raise ConfigurationError(
                f"Cannot build {name} because noise is a width; pass a number ≥ 0, as 1/128 (got {noise!r})"
            )
        if subset is not None:
            check_count(name, "subset", subset)
        if on_device and num_workers:
            raise ConfigurationError(
                f"Cannot build {name} because batches that are cut on the device need no loader processes; pass "
                f"num_workers=0 or on_device=False (got num_workers={num_workers})"
            )
        self.flip, self.noise, self.subset = flip, noise, subset
        self.pin_memory, self.on_device = pin_memory, on_device
        self._loaded: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._resident: tuple[Tensor, Tensor | None] | None = None

    @abc.abstractmethod
    def load(self, split: str) -> tuple[Tensor, Tensor | None]:
        """Images, uint8 (N, C, H, W), and labels, int64 (N,), or None; called once per split."""

    @abc.abstractmethod
    def reference_split(self) -> str:
        """The split that samples are compared with."""

    def split(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Images and labels, of the subset if there is one, loaded on first use."""
        if name not in self._loaded:
            images, labels = self.load(name)
            self._loaded[name] = images[: self.subset], None if labels is None else labels[: self.subset]
        return self._loaded[name]

    def train_dataset(self) -> Dataset[Any]:
        """The training images, augmented; on the device if so asked."""
        images, labels = self.split("train")
        if self.on_device:
            device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
            if self._resident is None or self._resident[0].device != device:
                self._resident = images.to(device), None if labels is None else labels.to(device)
            images, labels = self._resident
        return ByteImages(images, labels, seed=self.seed, flip=self.flip, noise=self.noise)

    def val_dataset(self) -> Dataset[Any]:
        """The reference images, as they are."""
        return ByteImages(*self.split(self.reference_split()))

    def loader_settings(self) -> dict[str, Any]:
        """Batches come whole; they are pinned unless they are on the device already."""
        pin = self.pin_memory and not self.on_device and torch.cuda.is_available()
        return {"collate_fn": batch_as_it_is, "pin_memory": pin}

    def reference_images(self) -> Tensor:
        """Return the images that metrics compare samples with: uint8 (N, C, H, W), in the dataset's order."""
        return self.split(self.reference_split())[0]

    def reference_labels(self) -> Tensor:
        """The labels (N,) of `reference_images`."""
        labels = self.split(self.reference_split())[1]
        if labels is None:
            raise ConfigurationError(
                f"Cannot give labels because the images of {type(self).__name__} have none; leave the conditional "
                "metrics out (got labels None)"
            )
        return labels

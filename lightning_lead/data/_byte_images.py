"""Images kept as bytes, and made into floats batch by batch.

    x = (2 b − 255) · (1/255)  in [−1, 1]        the dequantised one:  x + noise · u,   u uniform in [0, 1)

2 b − 255 is exact and the rest is one product and one sum, so every device gives the same bits. (b / 127.5 − 1 would
not: a GPU divides by multiplying with a rounded reciprocal.)
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_lead.data._augmentation import flipped, sample_keys, uniform

__all__ = ["ByteImages", "batch_as_it_is", "floats"]


def floats(images: Tensor) -> Tensor:
    """Bytes as floats in [−1, 1]; 0 is −1 and 255 is 1."""
    return images.to(torch.float32).mul_(2).sub_(255).mul_(1 / 255)


def batch_as_it_is(batch: Any) -> Any:
    """Collate samples; a batch that `ByteImages` has made already passes."""
    return default_collate(batch) if isinstance(batch[0], (list, tuple)) else batch


@final
class ByteImages(Dataset[Any]):
    """Images and labels by index, a whole batch at a time where the loader asks so."""

    indexed_by_epoch = True

    def __init__(
        self, images: Tensor, labels: Tensor | None, *, seed: int = 0, flip: bool = False, noise: float = 0.0
    ) -> None:
        self.images, self.labels, self.seed, self.flip, self.noise = images, labels, seed, flip, noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """One image and its label."""
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """A batch: float32 (n, C, H, W), and int64 (n,) if there are labels."""
        device = self.images.device
        samples = torch.tensor(indices)
        if device.type == "cuda":  # from pinned memory, and so without waiting for the device
            samples = samples.pin_memory()
        samples = samples.to(device, non_blocking=True)
        rows = samples % len(self.images)
        pixels = self.images[rows]
        if self.flip or self.noise:
            keys = sample_keys(self.seed, samples)
        if self.flip:
            pixels = flipped(pixels, keys)
        batch = floats(pixels)
        if self.noise:
            batch += uniform(keys, batch[0].numel()).view_as(batch).mul_(self.noise)
        return [batch] if self.labels is None else [batch, self.labels[rows]]

"""The real images that samples are compared with: read in order, shared over ranks, and identified by a hash."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_lead._arguments import check_arguments
from lightning_lead._distributed import gather_in_order
from lightning_lead._errors import ConfigurationError
from lightning_lead._images import to_uint8
from lightning_lead.calculus._rng import mix_seed, private_rng

__all__ = ["ImageHash", "ReferenceImages"]


class ReferenceImages:
    """Real images by index.

    Args:
        source: a tensor (N, C, H, W), a map-style dataset, or a DataLoader, whose dataset is read in order.
        name: where they come from, for the protocol.
        unpack: batch -> (images, anything), as the module's `unpack_batch`.

    Raises:
        ConfigurationError: something without a length and an order.

    Example:
        >>> reference = ReferenceImages(torch.zeros(5, 1, 2, 2), name="zeros")
        >>> len(reference), [len(chunk) for chunk in reference.chunks(2, value_range=(-1, 1))]
        (5, [2, 2, 1])
    """

    def __init__(self, source: Any, *, name: str, unpack: Callable[[Any], tuple[Tensor, Any]] | None = None) -> None:
        check_arguments(ReferenceImages, locals())
        collate = default_collate
        if isinstance(source, DataLoader):
            source, collate = source.dataset, source.collate_fn or default_collate
        elif hasattr(source, "dataset") and not hasattr(source, "__getitem__"):  # another loader; a Subset stays one
            source = source.dataset
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise ConfigurationError(
                "Cannot read the real images because they have no length and no order; pass reference=, a tensor "
                f"(N, C, H, W) or a map-style dataset (got {type(source).__name__})"
            )
        self.name, self._source, self._collate, self._unpack = name, source, collate, unpack

    def __len__(self) -> int:
        return len(self._source)

    def chunks(
        self, batch_size: int, *, value_range: tuple[float, float], rank: int = 0, world_size: int = 1
    ) -> Iterator[Tensor]:
        """Yield this rank's chunks k, with k mod world_size = rank, as bytes (n, C, H, W).

        Random transforms of the dataset draw from a noise of their own, the same every time. Raises a
        ConfigurationError where values are outside the range, or no images, and warns where all are in one half of it.
        """
        extremes: list[float] = []
        for k, start in enumerate(range(0, len(self), batch_size)):
            if k % world_size != rank:
                continue
            with private_rng(mix_seed(0, k)):
                images = self._read(start, min(start + batch_size, len(self)))
            if not isinstance(images, Tensor) or images.dim() != 4:
                got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
                raise ConfigurationError(
                    f"Cannot compare with {self.name} because it holds no images; pass reference=, a tensor "
                    f"(N, C, H, W) or a dataset of images (got {got})"
                )
            if images.is_floating_point():
                extremes += [float(images.min()), float(images.max())]
            yield to_uint8(images, value_range)
        _warn_of_half(self.name, extremes, value_range)

    def _read(self, start: int, stop: int) -> Any:
        if isinstance(self._source, Tensor):
            return self._source[start:stop]
        batch = self._collate([self._source[i] for i in range(start, stop)])
        if self._unpack is not None:
            return self._unpack(batch)[0]
        return batch[0] if isinstance(batch, (list, tuple)) else batch


def _warn_of_half(name: str, values: list[float], value_range: tuple[float, float]) -> None:
    """Warn of images whose range was mistaken: scores would compare with no others."""
    low, high = value_range
    middle = (low + high) / 2
    if values and min(values) < max(values) and (min(values) >= middle or max(values) <= middle):
        warnings.warn(
            f"All values of {name} lie between {min(values):.4g} and {max(values):.4g}, in one half of the declared "
            f"value_range=({low:g}, {high:g}); declare the range that they have, as (0, 1), or scores compare with no "
            "others",
            stacklevel=2,
        )


class ImageHash:
    """The sha256 of the sha256 of every image, in order, whatever the chunks and the ranks."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._digests: list[bytes] = []

    def update(self, images: Tensor) -> None:
        """Add this rank's next chunk (n, C, H, W), uint8."""
        self._digests += [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.cpu().contiguous()]

    def hexdigest(self, device: torch.device | str = "cpu") -> str:
        """Return the hash; all ranks must call it, with where they exchange tensors."""
        rows = torch.tensor([list(digest) for digest in self._digests], dtype=torch.uint8).view(-1, 32)
        ordered = gather_in_order(rows.to(device), self._chunk)
        return hashlib.sha256(ordered.cpu().numpy().tobytes()).hexdigest()

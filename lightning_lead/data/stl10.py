"""STL-10: 105,000 images of 96×96 pixels, 100,000 of them without a label, made smaller for GANs.

Reference: Coates, Lee and Ng, "An analysis of single layer networks in unsupervised feature learning", AISTATS 2011;
48×48 as in Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._image_base import AbstractImageDataModule
from lightning_lead.data._image_cache import cached_images
from lightning_lead.fetch._store import locked

__all__ = ["STL10DataModule"]

_SIDE, _CHUNK = 96, 1000
_BYTES = 3 * _SIDE * _SIDE  # of an image
_COUNTS = {"train_X.bin": 5_000, "unlabeled_X.bin": 100_000}  # images in the files

Part = Literal["unlabeled", "train+unlabeled"]


@final
class STL10DataModule(AbstractImageDataModule):
    """Batches (images,) of STL-10's unlabelled images, as in SNGAN's and LEAD's code; none has a label.

    Images are float32 (n, 3, image_size, image_size) in [−1, 1], made smaller bilinearly with antialiasing, once; the
    result is kept, and made again if the files change.

    Args:
        root: torchvision's folder, in which `stl10_binary` is or will be.
        download: let torchvision fetch it (2.6 GB) if it is not there or not whole, on one process per node.
        part: "unlabeled", 100,000 images; or "train+unlabeled", with the 5,000 labelled training images before them.
        image_size: pixels along one side, ≥ 1.
        batch_size: images per training batch and rank, ≥ 1; the last batch is dropped if it is not full.
        seed: of the order, the flips and the noise, ≥ 0.
        cache: where the small images are kept; default `images` in the store.
        flip: mirror half of the training images.
        noise: width of the uniform noise on training images, ≥ 0; 1/128 in SNGAN's recipe.
        subset: the first so many images only, ≥ 1, or None.
        num_workers: loader processes, ≥ 0.
        pin_memory: hand batches over in pinned memory, where there is a CUDA device.
        on_device: keep all images (690 MB at 48×48) on the training device and cut the batches there.
        num_predict: samples that `trainer.predict` makes, ≥ 1.

    Attributes:
        image_shape: (3, image_size, image_size).
        image_range: (−1.0, 1.0).
        num_classes: None.

    Raises:
        ConfigurationError: a setting out of its range, or no data, or not all of them, and `download=False`.

    Example:
        >>> STL10DataModule(root="a folder to be", download=True).image_shape
        (3, 48, 48)
    """

    num_classes: int | None = None

    def __init__(
        self,
        *,
        root: str,
        download: bool = False,
        part: Part = "unlabeled",
        image_size: int = 48,
        batch_size: int = 64,
        seed: int = 0,
        cache: str | None = None,
        flip: bool = False,
        noise: float = 0.0,
        subset: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = True,
        on_device: bool = False,
        num_predict: int = 64,
    ) -> None:
        check_arguments(STL10DataModule, locals())
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
        check_count("STL10DataModule", "image_size", image_size)
        self.root, self.download, self.image_size, self.cache = root, download, image_size, cache
        self.part = part
        self.image_shape = (3, image_size, image_size)
        if not download:
            self._check()

    def prepare_data(self) -> None:
        """Fetch and make smaller what has not been; Lightning calls this on one process per node."""
        if self.download and self._wrong():
            # STL10(download=True) would also read all of it into memory, and put its parts together there
            from torchvision.datasets import STL10
            from torchvision.datasets.utils import download_and_extract_archive

            with locked(Path(self.root)):
                if self._wrong():  # another node may have fetched it meanwhile
                    download_and_extract_archive(STL10.url, self.root, filename=STL10.filename, md5=STL10.tgz_md5)
        self.load("train")

    def reference_split(self) -> str:
        """The images that it trains on."""
        return self.part

    def load(self, split: str) -> tuple[Tensor, Tensor | None]:
        """Images, labelled ones first, memory-mapped; no labels.

        Args:
            split: whatever part: there is only what it trains on.
        """
        self._check()
        files = self._files()
        about = [file.stat() for file in files]
        what = {
            "set": f"stl10 {self.part}",
            "files": [[one.st_size, one.st_mtime_ns] for one in about],
            "image_size": self.image_size,
            "torchvision": version("torchvision"),  # whose resize it is
            "format": 2,
        }
        shape = (sum(_COUNTS[file.name] for file in files), 3, self.image_size, self.image_size)
        return cached_images(what, shape, lambda: self._chunks(files), cache=self.cache)

    def _files(self) -> list[Path]:
        """Of this part, in order."""
        named = {"train_X.bin": "train", "unlabeled_X.bin": "unlabeled"}
        return [Path(self.root) / "stl10_binary" / f for f, name in named.items() if name in self.part.split("+")]

    def _wrong(self) -> list[str]:
        """Return the files that are missing or of another size than they should be."""
        wrong = []
        for file in self._files():
            expected, size = _COUNTS[file.name] * _BYTES, file.stat().st_size if file.is_file() else None
            if size is None:
                wrong.append(f"no {file.name}")
            elif size != expected:
                wrong.append(f"{file.name} of {size:,} bytes instead of {expected:,}")
        return wrong

    def _check(self) -> None:
        if wrong := self._wrong():
            raise ConfigurationError(
                f"Cannot find STL-10 because not all of it is in {Path(self.root) / 'stl10_binary'}; pass "
                f"download=True and let prepare_data run, or unpack the archive in {self.root} (got "
                f"{' and '.join(wrong)})"
            )

    def _chunks(self, files: list[Path]) -> Iterator[np.ndarray[Any, Any]]:
        from torchvision.transforms.v2.functional import resize

        for file in files:
            # column by column within a channel, as the authors' Matlab wrote it; 2.8 GB: not all in memory
            images = np.memmap(file, np.uint8, mode="r").reshape(-1, 3, _SIDE, _SIDE).swapaxes(2, 3)
            for start in range(0, len(images), _CHUNK):
                chunk = torch.from_numpy(np.ascontiguousarray(images[start : start + _CHUNK]))
                yield resize(chunk, [self.image_size, self.image_size], antialias=True).numpy()

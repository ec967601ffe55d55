"""Any folder of images, resized and cropped once, and kept as bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import rank_zero_info
from lightning_lead.data._image_base import AbstractImageDataModule
from lightning_lead.data._image_cache import cached_images
from lightning_lead.data._pictures import check_mode, files_below, mode_of, opaque

__all__ = ["ImageFolderDataModule"]

_MODES = {1: "L", 3: "RGB"}


@final
class ImageFolderDataModule(AbstractImageDataModule):
    """Batches (images, labels) or (images,) of the pictures in a folder and its subfolders.

    Each is turned upright as its camera says, scaled so that its shorter side has `image_size` pixels (Lanczos, with
    antialiasing) and cropped in the middle; float32 (n, channels, image_size, image_size) in [−1, 1] in a batch. That
    is done once: the result is kept, and made again if a file is added, removed or changed.

    Links to pictures and to folders are followed. Hidden files and folders are left out, and the log says how many.
    Pictures of more than 8 bits a channel are refused, and those that are transparent somewhere: what belongs behind
    them is not known.

    If the pictures lie in two or more subfolders, and none beside them, each subfolder is a class, in the order of
    their names.

    Args:
        folder: of the pictures.
        image_size: pixels along one side, ≥ 1.
        channels: 3 for colours, 1 for grey.
        batch_size: images per training batch and rank, ≥ 1; the last batch is dropped if it is not full.
        seed: of the order, the flips and the noise, ≥ 0.
        cache: where the bytes are kept; default `images` in the store.
        flip: mirror half of the training images.
        noise: width of the uniform noise on training images, ≥ 0.
        subset: so many pictures only, spread evenly over their names, ≥ 1, or None.
        num_workers: loader processes, ≥ 0.
        pin_memory: hand batches over in pinned memory, where there is a CUDA device.
        on_device: keep all images on the training device and cut the batches there.
        num_predict: samples that `trainer.predict` makes, ≥ 1.

    Attributes:
        image_shape: (channels, image_size, image_size).
        image_range: (−1.0, 1.0).
        classes: names of the subfolders, or ().
        num_classes: their number, or None.

    Raises:
        ConfigurationError: a setting out of its range, no such folder, no picture in it; on reading, one that is
            damaged, transparent or deeper than 8 bits.

    Example:
        >>> import os, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, grey in {"cat": 0, "dog": 255}.items():
        ...         os.mkdir(f"{folder}/{name}")
        ...         Image.new("L", (40, 30), grey).save(f"{folder}/{name}/1.png")
        ...     data = ImageFolderDataModule(folder=folder, image_size=16, batch_size=2, cache=f"{folder}/cache")
        ...     images, labels = next(iter(data.val_dataloader()))
        >>> data.classes, images.shape, images.amax((1, 2, 3)).tolist(), labels.tolist()
        (('cat', 'dog'), torch.Size([2, 3, 16, 16]), [-1.0, 1.0], [0, 1])
    """

    def __init__(
        self,
        *,
        folder: str,
        image_size: int,
        channels: int = 3,
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
        check_arguments(ImageFolderDataModule, locals())
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
        check_count("ImageFolderDataModule", "image_size", image_size)
        if channels not in _MODES:
            raise ConfigurationError(
                "Cannot build ImageFolderDataModule because pictures are read in colour or in grey; pass channels=3 or "
                f"channels=1 (got {channels!r})"
            )
        self.folder, self.image_size, self.channels, self.cache = folder, image_size, channels, cache
        self.image_shape = (channels, image_size, image_size)
        files = _pictures(Path(folder), None if cache is None else Path(cache))
        names = sorted({group for file in files if (group := _group(file, folder))})
        sorted_in = len(names) > 1 and all(_group(file, folder) for file in files)
        count = min(subset or len(files), len(files))
        self._files = [files[k * len(files) // count] for k in range(count)]
        self.classes: tuple[str, ...] = tuple(names) if sorted_in else ()
        self.num_classes: int | None = len(names) if sorted_in else None
        self._labels = [names.index(_group(file, folder)) for file in self._files] if sorted_in else None

    def prepare_data(self) -> None:
        """Read the pictures, if they have not been; Lightning calls this on one process per node."""
        self.load("train")

    def reference_split(self) -> str:
        """All of it."""
        return "train"

    def load(self, split: str) -> tuple[Tensor, Tensor | None]:
        """Images, memory-mapped, and labels if there are classes.

        Args:
            split: "train".
        """
        root = Path(self.folder)
        listed = hashlib.sha256()
        for file in self._files:
            about = file.stat()
            listed.update(f"{file.relative_to(root).as_posix()}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        what = {"files": listed.hexdigest(), "image_size": self.image_size, "channels": self.channels, "format": 2}
        shape = (len(self._files), *self.image_shape)
        facts = {"folder": str(root.resolve())}
        return cached_images(what, shape, self._chunks, labels=self._labels, cache=self.cache, facts=facts)

    def _chunks(self) -> Iterator[np.ndarray[Any, Any]]:
        from PIL import Image, ImageOps

        for file in self._files:
            try:
                with Image.open(file) as opened:
                    check_mode(file, mode_of(opened))
                    upright = opaque(file, ImageOps.exif_transpose(opened)).convert(_MODES[self.channels])
                    fitted = ImageOps.fit(upright, (self.image_size, self.image_size), Image.Resampling.LANCZOS)
            except ConfigurationError:  # a ValueError too, and says already what is wrong
                raise
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise ConfigurationError(
                    f"Cannot read {file} because it is no picture that Pillow understands; repair it or move it out of "
                    f"the folder (got {error})"
                ) from error
            yield np.asarray(fitted).reshape(1, self.image_size, self.image_size, self.channels).transpose(0, 3, 1, 2)


def _group(file: Path, folder: str) -> str:
    """The subfolder in which the file lies, however deep; "" if in none."""
    return file.relative_to(folder).parts[0] if file.parent != Path(folder) else ""


def _pictures(folder: Path, cache: Path | None) -> list[Path]:
    """Files with a picture's ending, by name, also behind links; hidden ones are counted and left out, as the cache."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.is_dir():
        raise ConfigurationError(
            f"Cannot read pictures because there is no such folder; correct folder= (got {folder})"
        )
    pictures = [
        file
        for file in sorted(files_below(folder))
        if file.suffix.lower() in IMG_EXTENSIONS and (cache is None or cache not in file.parents)
    ]
    found = []
    for file in pictures:
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        if not file.exists():
            raise ConfigurationError(f"Cannot read {file} because it is a link that leads nowhere; mend or remove it")
        found.append(file)
    kept = set(found)
    if hidden := [file for file in pictures if file not in kept]:
        rank_zero_info(f"{len(hidden)} hidden pictures below {folder} are left out, the first of them {hidden[0]}")
    if not found:
        raise ConfigurationError(
            f"Cannot train on {folder} because there is no picture in it or in its subfolders; pass a folder with "
            f"files that end in {', '.join(IMG_EXTENSIONS)} (got none)"
        )
    return found

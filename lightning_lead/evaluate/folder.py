"""A folder of PNG files as images, so that anybody's samples can be scored.

PNG alone, because it keeps every value: JPEG changes what a feature network sees, and with it the score.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._pictures import check_mode, files_below, mode_of, opaque

__all__ = ["PNGFolder"]

_GREY = {"1", "L", "LA"}
_OTHERS = {".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".npy", ".npz"}


class PNGFolder(Dataset[Tensor]):
    """All PNG files below a folder, in the order of their names, as bytes (C, H, W).

    C is 1 if all are grey, else 3: grey images among coloured ones are repeated, palettes are looked up. Transparency
    is dropped if nothing is transparent. Sizes are read at construction, pixels when asked for.

    Args:
        folder: searched with all folders in it.

    Raises:
        ConfigurationError: no folder, no PNG, or images that differ in size or have more than 8 bits; on reading, a
            damaged file or one that is transparent somewhere.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 2), 255).save(Path(folder) / "a.png")
        ...     images = PNGFolder(folder)
        ...     len(images), images[0].shape, images[0].max().item()
        (1, torch.Size([1, 2, 4]), 255)
    """

    def __init__(self, folder: str | Path) -> None:
        check_arguments(PNGFolder, locals())
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ConfigurationError(
                f"Cannot read images because there is no folder {self.folder}; pass one with PNG files"
            )
        found = sorted(files_below(self.folder))
        self.paths = [path for path in found if path.suffix.lower() == ".png"]
        others = sorted({path.suffix for path in found if path.suffix.lower() in _OTHERS})
        if others or not self.paths:
            raise ConfigurationError(
                f"Cannot read images because {self.folder} holds "
                f"{'no PNG files' if not self.paths else 'other images as well'}; save the samples as PNG, which keeps "
                f"every value, in a folder of their own (got {len(self.paths)} PNG files"
                f"{' and ' + ', '.join(others) if others else ''})"
            )
        heads = [_head(path) for path in self.paths]
        for path, (size, mode) in zip(self.paths, heads, strict=True):
            if size != heads[0][0]:
                raise ConfigurationError(
                    f"Cannot compare images of several sizes because a score is of one; resize them all (got "
                    f"{_sides(heads[0][0])} of {self.paths[0].name} and {_sides(size)} of {path.name})"
                )
            check_mode(path, mode)
        self.mode = "L" if all(mode in _GREY for _, mode in heads) else "RGB"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                pixels: Tensor = pil_to_tensor(opaque(path, image).convert(self.mode))
        except (OSError, SyntaxError) as error:
            raise _unreadable(path, error) from error
        return pixels.to(torch.uint8)


def _head(path: Path) -> tuple[tuple[int, int], str]:
    try:
        with Image.open(path) as image:
            return image.size, mode_of(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"Cannot read {path} because it is no sound PNG file; write it again (got {error})")


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"

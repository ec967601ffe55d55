"""Checks of picture files: 8-bit grey or RGB must keep all of one, so no deeper values, and nothing transparent.

Pillow converts what does not fit all the same: 16-bit grey it clips to white, of 16-bit colours it reads the upper
bytes, and transparency it drops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_lead._errors import ConfigurationError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["check_mode", "files_below", "mode_of", "opaque"]

_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_DEEP = re.compile(";(16|32)[A-Z]")  # ";16" alone is a packed pixel, of five or six bits a channel
_TRANSPARENT = {"LA", "PA", "RGBA", "RGBa"}


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Everything below a folder but folders, also behind links to folders; a link to a folder around it is an error.

    Links that lead nowhere are among them.
    """
    here = folder.resolve()
    if here in above:
        raise ConfigurationError(
            f"Cannot read the pictures below {folder} because it is a link to a folder in which it lies itself, so "
            f"there is no end; remove the link (got a link to {here})"
        )
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from files_below(entry, (*above, here))
        else:
            yield entry


def mode_of(image: Image.Image) -> str:
    """The mode of a picture; of deeper colours, which Pillow has no mode for, that of the file, as "RGB;16B"."""
    for *_, settings in getattr(image, "tile", []):  # of a decoder; the mode in the file comes first
        if image.format == "PPM" and isinstance(settings, tuple) and settings[1] > 255:
            return f"{image.mode}, values up to {settings[1]}"  # Pillow scales them down
        raw = settings[0] if isinstance(settings, tuple) else settings
        if isinstance(raw, str) and _DEEP.search(raw):
            return raw
    return image.mode


def check_mode(path: Path, mode: str) -> None:
    """Refuse a picture that 8 bits a channel do not hold."""
    if mode not in _EIGHT_BITS:
        raise ConfigurationError(
            f"Cannot read {path} because it has more than 8 bits a channel or no colours that a network knows; "
            f"save it as 8-bit grey or RGB (got mode {mode!r})"
        )


def opaque(path: Path, image: Image.Image) -> Image.Image:
    """The picture, whose alpha channel may be dropped."""
    if image.mode not in _TRANSPARENT and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    lowest, _ = image.getchannel("A").getextrema()
    if lowest != 255:
        raise ConfigurationError(
            f"Cannot read {path} because it is transparent in places; save it without transparency, on a background "
            f"(got an alpha of {lowest} somewhere, of 255)"
        )
    return image

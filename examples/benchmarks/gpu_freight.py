"""What a machine without a network needs, in parts of a bounded size: CIFAR-10, Inception's weights, its layers' code.

    pack:   files → one archive → parts, each in a folder of its own with freight.json, which has every SHA-256
    take:   folders of parts → kept until all are there → the archive → the files, under OUTPUT/store

Images are stored as differences (of colours, rows and columns, modulo 256), Huffman-coded, 0.58 of their size, and come
out as the same bytes. Inception's matrices and kernels travel in float16 and come out as float32: the scores are of
rounded weights, which their protocol tells by another fingerprint. Its layers are torch-fidelity's, Python alone.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_lead._errors import ConfigurationError
from lightning_lead._files import replacing, write_json
from lightning_lead.fetch import find_cifar10, find_inception
from lightning_lead.fetch._store import damaged_files, install, sha256_of

__all__ = ["PART_MIB", "pack", "take"]

PART_MIB = 50.0
LIST, INCEPTION = "freight.json", "inception-2015-12-05"
ROUNDED = "matrices and kernels rounded to float16 for the transfer"


def squeezed(path: Path) -> bytes:
    """Return a .npy file of images, uint8 (n, 3, h, w), as its header and coded differences."""
    raw, images = path.read_bytes(), np.load(path)
    header = raw[: len(raw) - images.nbytes]
    images[:, 0] -= images[:, 1]
    images[:, 2] -= images[:, 1]
    for axis in (3, 2):
        images = np.diff(images, axis=axis, prepend=np.uint8(0))
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    sizes = np.array([len(header), *images.shape], np.int64).tobytes()
    return b"".join([sizes, header, coder.compress(images.tobytes()), coder.flush()])


def restored(data: bytes) -> bytes:
    """Return the .npy file."""
    length, *shape = (int(size) for size in np.frombuffer(data[:40], np.int64))
    images = np.frombuffer(zlib.decompress(data[40 + length :]), np.uint8).reshape(shape)
    for axis in (2, 3):
        images = np.cumsum(images, axis=axis, dtype=np.uint8)
    images[:, 0] += images[:, 1]
    images[:, 2] += images[:, 1]
    return data[40 : 40 + length] + images.tobytes()


def _halved(path: Path) -> bytes:
    """Return a state dict with tensors of two dimensions and more in float16; statistics keep their range."""
    import torch

    weights = torch.load(path, map_location="cpu", weights_only=True)
    buffer = io.BytesIO()
    torch.save({name: w.half() if w.dim() > 1 else w for name, w in weights.items() if name != "fc.bias"}, buffer)
    return buffer.getvalue()


def _archive(file: Path) -> list[str]:
    """Write all that is at hand into one archive; return what is missing."""
    missing = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if (images := find_cifar10()) is None:
            missing.append("CIFAR-10 (lightning-lead fetch cifar10)")
        else:
            for path in sorted(images.glob("*.npy")):
                if path.name.endswith("_images.npy"):
                    entry = zipfile.ZipInfo(f"cifar10/{path.name}.z")
                    archive.writestr(entry, squeezed(path), zipfile.ZIP_STORED)
                else:
                    archive.write(path, f"cifar10/{path.name}")
            archive.write(images / "manifest.json", "cifar10/manifest.json")
        layers = importlib.util.find_spec("torch_fidelity")
        if (weights := find_inception()) is None or layers is None:
            missing.append("Inception (lightning-lead fetch inception; torch-fidelity): scores by mean colours instead")
        else:
            archive.writestr(f"{INCEPTION}/weights.pt", _halved(weights))
            root = Path(str(layers.origin)).parent
            for path in sorted(root.rglob("*.py")):
                archive.write(path, f"site/torch_fidelity/{path.relative_to(root)}")
    return missing


def pack(folder: Path, *, part_mib: float = PART_MIB) -> list[Path]:
    """Write the parts.

    Args:
        folder: of the parts; part k goes into folder/k.
        part_mib: largest part, in MiB, > 0.

    Returns:
        The folders, one per transfer.
    """
    if not part_mib > 0:
        raise ConfigurationError(f"Cannot pack because a part needs a size; pass --part-mib > 0 (got {part_mib})")
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "freight.zip"
    for lack in _archive(whole):
        print(f"not at hand, and left out: {lack}")
    size = whole.stat().st_size
    count = math.ceil(size / (part_mib * 2**20))
    length = math.ceil(size / count)
    contents: dict[str, Any] = {"sha256": sha256_of(whole), "bytes": size, "parts": []}
    folders = []
    with whole.open("rb") as file:
        for k in range(1, count + 1):
            folders.append(folder / str(k))
            shutil.rmtree(folders[-1], ignore_errors=True)
            folders[-1].mkdir()
            part = folders[-1] / f"part-{k}-of-{count}"
            part.write_bytes(file.read(length))
            contents["parts"].append({"name": part.name, "sha256": sha256_of(part), "bytes": part.stat().st_size})
    whole.unlink()
    for each in folders:
        write_json(each / LIST, contents)
    return folders


def take(folders: Sequence[Path], output: Path) -> list[str]:
    """Keep parts under output/freight, and unpack them into output/store when all are there.

    Args:
        folders: of parts, as `pack` made them; those of other files are passed over.
        output: the folder of everything.

    Returns:
        Names of the parts that are still missing.

    Raises:
        ConfigurationError: a part is damaged, or of another freight.
    """
    kept, store = output / "freight", output / "store"
    for folder in folders:
        contents = _contents(folder)
        if contents is None:
            raise ConfigurationError(
                f"Cannot take freight because there is none; pass a folder of --pack (got {folder})"
            )
        if (store / LIST).is_file() and _contents(store) == contents:
            return []
        if kept.is_dir() and _contents(kept) not in (None, contents):
            shutil.rmtree(kept)  # of a freight that was packed anew since
        for part in contents["parts"]:
            source = folder / part["name"]
            if source.is_file():
                if sha256_of(source) != part["sha256"]:
                    raise ConfigurationError(
                        f"Cannot take {source} because its SHA-256 is not that of {LIST}; send it again "
                        f"(got {source.stat().st_size} bytes, expected {part['bytes']})"
                    )
                with replacing(kept / part["name"]) as draft:
                    shutil.copyfile(source, draft)
        write_json(kept / LIST, contents)
    contents = _contents(kept)
    if contents is None:
        return []
    missing = [part["name"] for part in contents["parts"] if not (kept / part["name"]).is_file()]
    if not missing:
        whole = kept / "freight.zip"
        with whole.open("wb") as file:
            for part in contents["parts"]:
                file.write((kept / part["name"]).read_bytes())
        if sha256_of(whole) != contents["sha256"]:
            raise ConfigurationError(
                f"Cannot join the parts in {kept} because they are damaged; send all of them again"
            )
        _unpack(whole, store)
        write_json(store / LIST, contents)
        shutil.rmtree(kept)
    return missing


def _contents(folder: Path) -> dict[str, Any] | None:
    path = folder / LIST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _unpack(whole: Path, store: Path) -> None:
    import torch

    shutil.rmtree(store, ignore_errors=True)
    with zipfile.ZipFile(whole) as archive:
        for name in archive.namelist():
            path = store / name.removesuffix(".z")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(restored(archive.read(name)) if name.endswith(".z") else archive.read(name))
    if damaged := damaged_files(store / "cifar10"):
        raise ConfigurationError(
            f"Cannot use CIFAR-10 because files are not what was packed; pack anew (got {damaged})"
        )
    if (folder := store / INCEPTION).is_dir():
        weights = torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)
        made = folder / "made"
        made.mkdir()
        torch.save(
            {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}, made / "weights.pt"
        )
        facts = {"name": INCEPTION, "source": "freight", "rounded": ROUNDED, "classifier": "fc.weight" in weights}
        install(made, folder, ["weights.pt"], facts)
        made.rmdir()

"""Images that were made ready once, as bytes in a file that memory-maps, under a name that changes with what they are.

    <store>/images/<key>/images.npy [labels.npy] manifest.json,     key = the first 20 digits of sha256(what they are)

What they are includes every setting that shapes them, so a cache is never stale: another setting is another folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lightning_lead.fetch import home
from lightning_lead.fetch._store import install, locked, read_manifest, workshop

__all__ = ["Images", "cache_folder", "cached_images", "map_images"]

Images = Iterable["np.ndarray[Any, Any]"]  # uint8 (n, C, H, W) in order, together all of them


def map_images(path: Path) -> Tensor:
    """An array in a file as a tensor that reads its pages as they are needed."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # "c": a write would not reach the file


def cache_folder(what: Mapping[str, Any], cache: str | None) -> Path:
    """Return the folder in which images of this description are kept."""
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
    return (Path(cache) if cache else home() / "images") / key


def cached_images(
    what: Mapping[str, Any],
    shape: tuple[int, int, int, int],
    make: Callable[[], Images],
    *,
    labels: list[int] | None = None,
    cache: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Images, made ready if they are not kept yet; other processes that want the same wait."""
    folder = cache_folder(what, cache)
    names = ["images.npy", *(["labels.npy"] if labels is not None else [])]
    if read_manifest(folder) is None:
        with locked(folder):
            if read_manifest(folder) is None:  # another process may have made it meanwhile
                with workshop(folder) as made:
                    _write(made / "images.npy", shape, make())
                    if labels is not None:
                        np.save(made / "labels.npy", np.asarray(labels, np.int64))
                    install(made, folder, names, {"shape": shape, **what, **(facts or {})})
    found = torch.from_numpy(np.load(folder / "labels.npy")) if labels is not None else None
    return map_images(folder / "images.npy"), found


def _write(path: Path, shape: tuple[int, int, int, int], chunks: Images) -> None:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    start = 0
    label = "making images ready"
    with tqdm(total=array.nbytes, desc=label, unit="B", unit_scale=True, disable=None) as bar:  # on a terminal alone
        for chunk in chunks:
            array[start : start + len(chunk)] = chunk
            start += len(chunk)
            bar.update(chunk.nbytes)
    array.flush()

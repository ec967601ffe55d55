"""The reals pass the network, or, if they have before, their statistics come from the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from lightning_lead import __version__
from lightning_lead.callbacks.extractor import FeatureNetwork
from lightning_lead.callbacks.feature_scores import FeatureScores
from lightning_lead.callbacks.protocol import describe_device
from lightning_lead.callbacks.ranks import place
from lightning_lead.callbacks.reference import ImageHash, ReferenceImages
from lightning_lead.callbacks.statistics_cache import WORTH_A_FILE, StatisticsCache, default_folder

__all__ = ["cache_folder", "pass_reference"]

MOST_HELD = 2**30
"""Bytes of images that a rank keeps after hashing them, so that they are not read a second time."""


def cache_folder(cache: bool | str | Path, numbers: int) -> Path | None:
    """Where statistics of the reals are kept, or None.

    Args:
        cache: a folder; or True for the default one, if there is enough to compute; or False.
        numbers: in the features of all reals.

    Example:
        >>> cache_folder(True, 100) is None, cache_folder("statistics", 100)
        (True, PosixPath('statistics'))
    """
    if cache is True:
        return default_folder() if numbers >= WORTH_A_FILE else None
    return None if cache is False else Path(cache)


def pass_reference(
    reference: ReferenceImages,
    features: FeatureNetwork,
    scores: FeatureScores,
    *,
    batch_size: int,
    value_range: tuple[float, float],
    folder: Path | None,
    probe: Tensor,
    device: torch.device,
) -> str:
    """Tell the scores what they need to know of the reals; all ranks must call it.

    Args:
        reference: the reals.
        features: the network.
        scores: that want the statistics.
        batch_size: images per forward.
        value_range: of images that are floats.
        folder: of the cache, or None.
        probe: features of the first images.
        device: where ranks exchange tensors.

    Returns:
        The hash of the images, see `ImageHash`.
    """
    rank, ranks = place()
    share: dict[str, Any] = {"value_range": value_range, "rank": rank, "world_size": ranks}
    image_hash, held, size = ImageHash(batch_size), list[Tensor](), 0
    shape: tuple[int, ...] = ()
    for images in reference.chunks(batch_size, **share):
        image_hash.update(images)
        scores.add_pixels(images, real=True)
        size, shape = size + images.numel(), tuple(images.shape[1:])
        if size <= MOST_HELD:
            held.append(images)
    sha256 = image_hash.hexdigest(device)
    settings = {
        "reference_sha256": sha256,
        "num_reference": len(reference),
        "image_shape": shape,  # rank 0 alone reads and writes, and it always has images
        "extractor": f"{type(features.network).__module__}.{type(features.network).__qualname__}",
        "extractor_fingerprint": features.fingerprint(),
        "num_features": features.num_features,
        "resize": features.resize,
        "batch_size": batch_size,  # features depend on it in their last digits
        "device": describe_device(device),
        "versions": {
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "lightning-lead": __version__,  # how a statistic is computed is this package's own
        },
    }
    # a GPU may take another algorithm each time, such as Winograd's, which rounds more; a CPU rounds otherwise at most
    cache = StatisticsCache(folder, settings, probe, tolerance=1e-3 if device.type == "cuda" else 1e-4)
    found = {kind: tensors for kind in scores.kinds if (tensors := cache.load(kind, scores.device)) is not None}
    forward = {"moments", "features"} & set(scores.kinds)
    if not forward <= set(found):  # one pass of the images makes both
        found = {kind: tensors for kind, tensors in found.items() if kind not in forward}
        again = held if size <= MOST_HELD else reference.chunks(batch_size, **share)
        for images in again:
            scores.add(features(images)[0], real=True)
    for kind in scores.kinds:
        if kind in found:
            scores.restore(kind, found[kind])
        else:
            cache.save(kind, scores.reals(kind))
    return sha256

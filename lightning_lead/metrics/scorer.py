"""One measurement: reals and fakes through the feature network, once each, and what was done on the way.

Images go in, numbers and their protocol come out; where the images are from, and when to measure, is not its business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from lightning_lead import __version__
from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, check_range
from lightning_lead._distributed import combine, rank_and_world_size
from lightning_lead._errors import ConfigurationError
from lightning_lead._images import outside_range, to_uint8
from lightning_lead.calculus._float32 import plain_computation
from lightning_lead.metrics._cache import StatisticsCache, cache_folder
from lightning_lead.metrics._collection import ScoreCollection, find_scores, with_options
from lightning_lead.metrics._protocol import describe_device, library_versions
from lightning_lead.metrics.base import Score
from lightning_lead.metrics.classifier import WITH_CLASSIFIER, ClassifierScore
from lightning_lead.metrics.reference import ImageHash, ReferenceImages

__all__ = ["Measurement", "Scorer"]

MOST_HELD = 2**30
"""Bytes of images that a rank keeps after hashing them, so that they are not read a second time."""


class Measurement(NamedTuple):
    """Scores by name, with "kid_std" beside "kid"; the protocol; how many values were not finite; and a picture.

    The picture, on rank 0 and with "memorization" alone, is (3, H, W) uint8: samples above their nearest reals.

    Example:
        >>> Measurement({"fid": 1.5}, {"seed": 0}, broken=0).values
        {'fid': 1.5}
    """

    values: dict[str, float]
    protocol: dict[str, Any]
    broken: int
    picture: Tensor | None = None


class Scorer:
    """Measures samples against reference images.

    Args:
        extractor: as `GenerativeMetrics` takes it.
        metrics: scores, or their names.
        num_samples: that are to be scored.
        batch_size: images per forward.
        value_range: of images that are floats.
        reference: the reals, for whoever calls `take_reference`.
        seed: of what scores draw.
        cache: as `GenerativeMetrics` takes it.
        **options: of scores that are named, as `kid_subsets`.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> class Pixels(nn.Flatten):
        ...     num_features = 4
        ...     def forward(self, images):
        ...         return super().forward(images.float())
        >>> images = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
        >>> scorer = Scorer(Pixels(), num_samples=6, metrics=["precision"])
        >>> scorer.take_reference(ReferenceImages(images, name="numbers"), torch.device("cpu"))
        >>> scorer.measure_images([images], {}).values
        {'precision': 1.0}
    """

    def __init__(
        self,
        extractor: nn.Module | str | None = None,
        *,
        metrics: Sequence[str | Score] = ("fid", "kid"),
        num_samples: int = 10_000,
        batch_size: int = 250,
        value_range: tuple[float, float] = (-1.0, 1.0),
        reference: Any = None,
        seed: int = 0,
        cache: bool | str | Path = True,
        **options: Any,
    ) -> None:
        check_arguments(Scorer, locals())
        from lightning_lead.features._extractor import FeatureNetwork, find_extractor

        check_positive(num_samples=num_samples, batch_size=batch_size)
        self.num_samples, self.batch_size, self.value_range = num_samples, batch_size, check_range(value_range)
        self.reference, self.seed, self.cache = reference, seed, cache
        self._given: dict[str, Any] = {"metrics": metrics} | options
        self.features = FeatureNetwork(find_extractor(extractor))
        self.scores = find_scores(metrics, options)
        self.scores += self._of_classifier(self.scores, options.get("is_splits"))
        if not self.scores:
            raise ConfigurationError("Cannot score samples with nothing to compute; name 'fid' or 'kid' in metrics")
        self.names = [name for score in self.scores for name in score.names]
        for score in self.scores:
            score.check(num_samples, None, self.features.num_features)
        self.image_shape: tuple[int, ...] = ()  # of the reals, once they are known
        self._collection: ScoreCollection | None = None
        self._described: dict[str, Any] = {}
        self._device = torch.device("cpu")

    def _of_classifier(self, named: Sequence[Score], splits: int | None) -> list[Score]:
        """Return the classifier's score where there is a classifier, unless it was given."""
        wants = [score for score in named if "logits" in score.needs]
        if self.features.classifies:
            name = getattr(self.features.network, "score_name", None)
            given = any(isinstance(score, ClassifierScore) for score in wants)
            return [] if given else [ClassifierScore(splits, name)]
        check_positive(is_splits=splits)
        if wants or splits is not None:
            what = f"compute {wants[0].names[0]}" if wants else "split a classifier's score"
            remedy = "leave it out" if wants else "leave out is_splits"
            raise ConfigurationError(
                f"Cannot {what} because {self.features.name} has no classifier; {remedy}. {WITH_CLASSIFIER} "
                f"(got is_splits={splits})"
            )
        return []

    def changed(self, *, extractor: nn.Module | str | None = None, **settings: Any) -> Scorer:
        """Return another scorer with the same settings but these, by the names of `GenerativeMetrics`."""
        network = self.features.network if extractor is None else extractor
        mine = {"num_samples", "batch_size", "value_range", "reference", "seed", "cache"}
        kept = self._given | {name: getattr(self, name) for name in mine}
        if "metrics" not in settings:
            kept["metrics"] = [with_options(m, settings) if isinstance(m, Score) else m for m in kept["metrics"]]
        return Scorer(network, **(kept | settings))

    def take_reference(self, reference: ReferenceImages, device: torch.device) -> None:
        """Pass these reals, and compute on this device from now on; all ranks must call it.

        Raises:
            ConfigurationError: too few, outside the value range, or an extractor that cannot work on them.
        """
        for score in self.scores:
            score.check(self.num_samples, len(reference), self.features.num_features)
        self._device = device
        with plain_computation(device):
            self.features.to(device)
            first = next(reference.chunks(self.batch_size, value_range=self.value_range))
            probe, logits = self.features(first[:2])
            self.image_shape = tuple(first.shape[1:])
            collection = ScoreCollection(
                self.scores,
                num_features=self.features.num_features,
                chunk=self.batch_size,
                logits=logits,
                image_shape=self.image_shape,
                seed=self.seed,
                device=device,
            )
            sha256 = self._pass(reference, collection, probe)
        self._collection = collection
        self._described = {
            "num_reference": len(reference),
            "reference": reference.name,
            "reference_sha256": sha256,
            "extractor": self.features.name,
            "extractor_fingerprint": self.features.fingerprint(),
            "num_features": self.features.num_features,
            "resize": self.features.resize,
        }

    def _pass(self, reference: ReferenceImages, collection: ScoreCollection, probe: Tensor) -> str:
        """Hash the reals, and let them pass the network unless the cache knows what is needed of them."""
        rank, ranks = rank_and_world_size()
        share: dict[str, Any] = {"value_range": self.value_range, "rank": rank, "world_size": ranks}
        image_hash, held, size = ImageHash(self.batch_size), list[Tensor](), 0
        for images in reference.chunks(self.batch_size, **share):
            image_hash.update(images)
            collection.add_pixels(images, real=True)
            size += images.numel()
            if size <= MOST_HELD:
                held.append(images)
            else:
                held.clear()
        sha256 = image_hash.hexdigest(self._device)

        def forward() -> None:
            for images in held if size <= MOST_HELD else reference.chunks(self.batch_size, **share):
                collection.add(self.features(images)[0], real=True)

        settings = {
            "reference_sha256": sha256,
            "num_reference": len(reference),
            "image_shape": self.image_shape,
            # not by its module: a network that moves to another file is the same
            "extractor": type(self.features.network).__qualname__,
            "extractor_fingerprint": self.features.fingerprint(),
            "num_features": self.features.num_features,
            "resize": self.features.resize,
            "batch_size": self.batch_size,  # features depend on it in their last digits
            "device": describe_device(self._device),
            "versions": {
                "torch": str(torch.__version__),
                "torchvision": str(torchvision.__version__),
                "lightning-lead": __version__,  # how a statistic is computed is this package's own
            },
        }
        folder = cache_folder(self.cache, len(reference) * self.features.num_features)
        # a GPU may take another algorithm each time, such as Winograd's, which rounds more than any CPU does
        tolerance = 1e-3 if self._device.type == "cuda" else 1e-4
        collection.prepare(StatisticsCache(folder, settings, probe, tolerance=tolerance), forward)
        return sha256

    def measure_images(self, chunks: Iterable[Tensor], protocol: Mapping[str, Any]) -> Measurement:
        """Score images; all ranks must call it, and get the same.

        Args:
            chunks: of `batch_size` images (n, C, H, W), bytes or floats; this rank's share, as `generate` yields it.
            protocol: where they come from.
        """
        collection, device = self._collection, self._device
        if collection is None:
            raise ConfigurationError("Cannot measure because no reals have passed; call take_reference() first")
        with plain_computation(device):
            collection.reset_fakes()
            # images, values, values outside of the range, values that are not finite
            tally = torch.zeros(4, dtype=torch.long, device=collection.device)
            for samples in chunks:
                broken, outside = int((~samples.isfinite()).sum()), outside_range(samples, self.value_range)
                tally += torch.tensor([len(samples), samples.numel(), outside, broken], device=collection.device)
                if not broken:
                    images = to_uint8(samples, self.value_range, strict=False)
                    collection.add_pixels(images, real=False)
                    collection.add(*self.features(images), real=False)
            count, total, outside, broken = combine(tally).tolist()
            values = dict.fromkeys(self.names, math.nan) if broken else collection.compute()
            collection.reset_fakes()
            # here, where the settings are those of the work
            details = {**self._protocol(count, outside / total), **protocol}
        picture = collection.picture if not broken and rank_and_world_size()[0] == 0 else None
        return Measurement(values, details, broken, picture)

    def free(self) -> None:
        """Forget the reals, and take the network off the device."""
        self._collection = None
        self.features.to("cpu")

    def _protocol(self, count: int, clipped_share: float) -> dict[str, Any]:
        settings = {"seed": self.seed, "batch_size": self.batch_size}
        for score in self.scores:
            settings |= score.protocol()
        return {
            "num_samples": count,
            **self._described,
            "value_range": list(self.value_range),
            "quantisation": "uint8 by rounding",
            "clipped_share": clipped_share,
            "autocast": False,
            "moments": "float64",
            **settings,
            "device": describe_device(self._device),
            "versions": library_versions(),
        }

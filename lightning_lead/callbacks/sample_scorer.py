"""One measurement: reals and fakes through the feature network, once each, and what was done on the way.

This is `GenerativeMetrics` without the question of when, and without logging.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead.callbacks.checks import check_positive, check_range
from lightning_lead.callbacks.ema import GeneratorEMA
from lightning_lead.callbacks.extractor import FeatureNetwork, find_extractor
from lightning_lead.callbacks.feature_scores import FeatureScores
from lightning_lead.callbacks.fingerprints import tensors_hash
from lightning_lead.callbacks.metric_names import (
    NEIGHBOUR_SCORES,
    classifier_names,
    default_splits,
    expand_metrics,
    logged_names,
)
from lightning_lead.callbacks.protocol import describe_average, describe_device, describe_norms, library_versions
from lightning_lead.callbacks.ranks import combine, place
from lightning_lead.callbacks.reference import ReferenceImages, find_reference
from lightning_lead.callbacks.reference_pass import cache_folder, pass_reference
from lightning_lead.callbacks.sampling import generate, outside_range, plain_computation, to_uint8

__all__ = ["Measurement", "SampleScorer"]


class Measurement(NamedTuple):
    """Scores by name, with "kid_std" beside "kid"; the protocol; how many values were not finite; and a picture.

    The picture, on rank 0 and with "memorization" alone, is (3, H, W) uint8: samples above their nearest reals.
    """

    values: dict[str, float]
    protocol: dict[str, Any]
    broken: int
    picture: Tensor | None = None


class SampleScorer:
    """Measures samples against reference images; its arguments are those of `GenerativeMetrics`.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> class Pixels(torch.nn.Flatten):
        ...     num_features = 4
        >>> SampleScorer(Pixels(), num_samples=100, metrics=["fid"]).names
        ['fid']
    """

    def __init__(
        self,
        extractor: torch.nn.Module | str | None = None,
        *,
        num_samples: int = 10_000,
        batch_size: int = 250,
        metrics: Sequence[str] = ("fid", "kid"),
        value_range: tuple[float, float] = (-1.0, 1.0),
        reference: Any = None,
        seed: int = 0,
        kid_subsets: int = 100,
        kid_subset_size: int = 1000,
        precision_k: int = 3,
        density_k: int = 5,
        is_splits: int | None = None,
        cache: bool | str | Path = True,
    ) -> None:
        check_positive(num_samples=num_samples, batch_size=batch_size, is_splits=is_splits)
        check_positive(kid_subsets=kid_subsets, kid_subset_size=kid_subset_size)
        check_positive(precision_k=precision_k, density_k=density_k)
        self.metrics = expand_metrics(metrics)
        network = find_extractor(extractor)
        self.features = FeatureNetwork(network)
        if not self.metrics and not self.features.classifies:
            raise ConfigurationError("Cannot score samples with nothing to compute; name 'fid' or 'kid' in metrics")
        self.names = logged_names(self.metrics, network, classifies=self.features.classifies)
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.value_range, self.reference, self.cache = check_range(value_range), reference, cache
        self.kid_subsets, self.kid_subset_size = kid_subsets, kid_subset_size
        self.precision_k, self.density_k = precision_k, density_k
        self.is_splits = is_splits or default_splits(network)
        self._check_count(num_samples, "samples", "raise num_samples")
        self._scores: FeatureScores | None = None
        self._card: dict[str, Any] = {}
        self._image_shape: tuple[int, ...] = ()
        self._device = torch.device("cpu")

    def prepare(self, trainer: Trainer, pl_module: Any) -> None:
        """Pass the reals; all ranks must call it.

        Args:
            trainer: with the data, if no reference was given.
            pl_module: whose device is used.

        Raises:
            ConfigurationError: no reals, too few, outside the value range, or an extractor that cannot work on them.
        """
        self.take_reference(find_reference(self.reference, trainer, pl_module), pl_module.device)

    def take_reference(self, reference: ReferenceImages, device: torch.device) -> None:
        """Pass these reals; all ranks must call it.

        Args:
            reference: the reals.
            device: where everything is computed.

        Raises:
            ConfigurationError: too few, outside the value range, or an extractor that cannot work on them.
        """
        self._check_count(len(reference), "real images", "pass a larger reference")
        self._device = device
        with plain_computation(device):
            self.features.to(device)
            first = next(reference.chunks(self.batch_size, value_range=self.value_range))
            probe, logits = self.features(first[:2])
            self._image_shape = tuple(first.shape[1:])
            scores = FeatureScores(
                num_features=self.features.num_features,
                metrics=self.metrics,
                chunk=self.batch_size,
                num_classes=None if logits is None else logits.shape[1],
                image_shape=self._image_shape,
                score_names=classifier_names(self.features.network),
                splits=self.is_splits,
                kid_subsets=self.kid_subsets,
                kid_subset_size=self.kid_subset_size,
                precision_k=self.precision_k,
                density_k=self.density_k,
                seed=self.seed,
                device=device,
            )
            sha256 = pass_reference(
                reference,
                self.features,
                scores,
                batch_size=self.batch_size,
                value_range=self.value_range,
                folder=cache_folder(self.cache, len(reference) * self.features.num_features),
                probe=probe,
                device=device,
            )
        self._scores = scores
        self._card = {
            "num_reference": len(reference),
            "reference": reference.name,
            "reference_sha256": sha256,
            "extractor": self.features.name,
            "extractor_fingerprint": self.features.fingerprint(),
            "num_features": self.features.num_features,
            "resize": self.features.resize,
        }

    def try_samples(self, pl_module: Any, ema: GeneratorEMA | None, *, strict: bool) -> None:
        """Look at one chunk of samples before training.

        Args:
            pl_module: whose samples.
            ema: draw from its average.
            strict: refuse values outside the range.

        Raises:
            ConfigurationError: another shape than the reals', or, if strict, values outside the range.
        """
        count = min(self.batch_size, 64)
        (samples,) = generate(pl_module, count, seed=self.seed, batch_size=count, ema=ema)
        if tuple(samples.shape[1:]) != self._image_shape:
            raise ConfigurationError(
                "Cannot compare samples with real images because their shapes differ; make the generator return "
                f"(n, {', '.join(map(str, self._image_shape))}) (got {tuple(samples.shape)})"
            )
        if strict:
            to_uint8(samples, self.value_range, strict=True)

    def measure(self, trainer: Trainer, pl_module: Any, ema: GeneratorEMA | None) -> Measurement:
        """Draw samples and score them; all ranks must call it, and get the same.

        Args:
            trainer: which ranks there are.
            pl_module: whose samples.
            ema: draw from its average.
        """
        share = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        chunks = generate(pl_module, self.num_samples, seed=self.seed, batch_size=self.batch_size, ema=ema, **share)
        generator = pl_module.generator
        weights = {f"generator.{name}": t for name, t in (*generator.named_parameters(), *generator.named_buffers())}
        with plain_computation(self._device):
            sampled = weights if ema is None else ema.average(pl_module)
            protocol = {
                "generator_mode": "eval",
                "batch_norm": describe_norms(generator),
                "ema": describe_average(ema),
                "precision": str(trainer.precision),
                "generator_sha256": tensors_hash(sampled),
            }
        return self.measure_images(chunks, protocol)

    def measure_images(self, chunks: Iterable[Tensor], protocol: Mapping[str, Any]) -> Measurement:
        """Score images; all ranks must call it, and get the same.

        Args:
            chunks: of `batch_size` images (n, C, H, W), bytes or floats; this rank's share, as `generate` yields it.
            protocol: where they come from.
        """
        scores, device = self._scores, self._device
        if scores is None:
            raise ConfigurationError("Cannot measure before prepare(); call it with the same Trainer first")
        with plain_computation(device):
            scores.reset_fakes()
            # images, values, values outside of the range, values that are not finite
            tally = torch.zeros(4, dtype=torch.long, device=scores.device)
            for samples in chunks:
                broken, outside = int((~samples.isfinite()).sum()), outside_range(samples, self.value_range)
                tally += torch.tensor([len(samples), samples.numel(), outside, broken], device=scores.device)
                if not broken:
                    images = to_uint8(samples, self.value_range, strict=False)
                    scores.add_pixels(images, real=False)
                    scores.add(*self.features(images), real=False)
            count, total, outside, broken = combine(tally).tolist()
            values = scores.compute() if not broken else dict.fromkeys(self.names, math.nan)
            scores.reset_fakes()
        details = {**self._protocol(count, outside / total), **protocol}
        return Measurement(values, details, broken, scores.picture if not broken and place()[0] == 0 else None)

    def free(self) -> None:
        """Forget the reals, and take the network off the device."""
        self._scores = None
        self.features.to("cpu")

    def _protocol(self, count: int, clipped_share: float) -> dict[str, Any]:
        special: dict[str, Any] = {}
        if "kid" in self.metrics:
            special |= {"kid_subsets": self.kid_subsets, "kid_subset_size": self.kid_subset_size}
        if set(self.metrics) & set(NEIGHBOUR_SCORES):
            special |= {"precision_k": self.precision_k, "density_k": self.density_k}
        if self.features.classifies:
            special |= {"is_splits": self.is_splits}
        return {
            "num_samples": count,
            **self._card,
            "value_range": list(self.value_range),
            "quantisation": "uint8 by rounding",
            "clipped_share": clipped_share,
            "autocast": False,
            "moments": "float64",
            "seed": self.seed,
            "batch_size": self.batch_size,
            **special,
            "device": describe_device(self._device),
            "versions": library_versions(),
        }

    def _check_count(self, count: int, what: str, remedy: str) -> None:
        width = self.features.num_features
        if "fid" in self.metrics and count <= width:
            raise ConfigurationError(
                f"Cannot compute FID from fewer {what} than features because the covariance is singular; {remedy} "
                f"above {width} (got {count})"
            )
        if "kid" in self.metrics and not 2 <= self.kid_subset_size <= count:
            raise ConfigurationError(
                f"Cannot draw KID's subsets because kid_subset_size must be between 2 and the number of {what}, "
                f"{count}; lower it, or {remedy} (got {self.kid_subset_size})"
            )
        least = max(self.precision_k, self.density_k) if set(self.metrics) & set(NEIGHBOUR_SCORES) else 1
        if set(self.metrics) & {*NEIGHBOUR_SCORES, "memorization"} and count <= least:
            raise ConfigurationError(
                f"Cannot look for {least} nearest neighbours among {count} {what}; {remedy} above {least}, or lower "
                "precision_k and density_k"
            )
        if what == "samples" and self.features.classifies and count < self.is_splits:
            raise ConfigurationError(
                f"Cannot split {count} samples into is_splits={self.is_splits} parts; raise num_samples"
            )

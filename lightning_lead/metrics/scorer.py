"""One measurement: reals and fakes through the feature network, once each, and what was done on the way.

This is `GenerativeMetrics` without the question of when, and without logging.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead.callbacks.ema import GeneratorEMA
from lightning_lead.callbacks.extractor import FeatureNetwork, find_extractor
from lightning_lead.callbacks.feature_scores import FeatureScores
from lightning_lead.callbacks.fingerprints import tensors_hash
from lightning_lead.callbacks.metric_names import WITH_CLASSIFIER, classifier_names, default_splits, logged_names
from lightning_lead.callbacks.protocol import (
    describe_average,
    describe_device,
    describe_dtype,
    describe_norms,
    library_versions,
)
from lightning_lead.callbacks.ranks import combine, place
from lightning_lead.callbacks.reference import ReferenceImages, find_reference
from lightning_lead.callbacks.reference_pass import cache_folder, pass_reference
from lightning_lead.callbacks.sampling import generate, outside_range, plain_computation, to_uint8
from lightning_lead.callbacks.score_settings import ScoreSettings

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
        self, extractor: torch.nn.Module | str | None = None, *, reference: Any = None, **settings: Any
    ) -> None:
        self.settings, self.reference = ScoreSettings(**settings), reference
        network = find_extractor(extractor)
        self.features = FeatureNetwork(network)
        if not self.settings.metrics and not self.features.classifies:
            raise ConfigurationError("Cannot score samples with nothing to compute; name 'fid' or 'kid' in metrics")
        if self.settings.is_splits is not None and not self.features.classifies:
            raise ConfigurationError(
                f"Cannot split a classifier's score because {self.features.name} has no classifier; leave "
                f"out is_splits. {WITH_CLASSIFIER} (got is_splits={self.settings.is_splits})"
            )
        self.names = logged_names(self.settings.metrics, network, classifies=self.features.classifies)
        self.splits = (self.settings.is_splits or default_splits(network)) if self.features.classifies else 1
        if self.splits > self.settings.num_samples:
            raise ConfigurationError(
                f"Cannot split the samples into is_splits={self.splits} parts because there are fewer; raise "
                f"num_samples (got {self.settings.num_samples})"
            )
        self._check_count(self.settings.num_samples, "samples", "raise num_samples")
        self._scores: FeatureScores | None = None
        self._card: dict[str, Any] = {}
        self.image_shape: tuple[int, ...] = ()  # of the reals, once they are known
        self._device = torch.device("cpu")

    def changed(self, *, extractor: torch.nn.Module | str | None = None, **settings: Any) -> SampleScorer:
        """Another scorer with the same settings but these.

        Args:
            extractor: None keeps the network.
            **settings: of `GenerativeMetrics`.
        """
        network = self.features.network if extractor is None else extractor
        return SampleScorer(network, **({"reference": self.reference} | vars(self.settings) | settings))

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
        chosen = self.settings
        self._check_count(len(reference), "real images", "pass a larger reference")
        self._device = device
        with plain_computation(device):
            self.features.to(device)
            first = next(reference.chunks(chosen.batch_size, value_range=chosen.value_range))
            probe, logits = self.features(first[:2])
            self.image_shape = tuple(first.shape[1:])
            scores = FeatureScores(
                num_features=self.features.num_features,
                metrics=chosen.metrics,
                chunk=chosen.batch_size,
                num_classes=None if logits is None else logits.shape[1],
                image_shape=self.image_shape,
                score_names=classifier_names(self.features.network),
                splits=self.splits,
                kid_subsets=chosen.kid_subsets,
                kid_subset_size=chosen.kid_subset_size,
                precision_k=chosen.precision_k,
                density_k=chosen.density_k,
                seed=chosen.seed,
                device=device,
            )
            sha256 = pass_reference(
                reference,
                self.features,
                scores,
                batch_size=chosen.batch_size,
                value_range=chosen.value_range,
                folder=cache_folder(chosen.cache, len(reference) * self.features.num_features),
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
        count = min(self.settings.batch_size, 64)
        (samples,) = generate(pl_module, count, seed=self.settings.seed, batch_size=count, ema=ema)
        if tuple(samples.shape[1:]) != self.image_shape:
            raise ConfigurationError(
                "Cannot compare samples with real images because their shapes differ; make the generator return "
                f"(n, {', '.join(map(str, self.image_shape))}) (got {tuple(samples.shape)})"
            )
        if strict:
            to_uint8(samples, self.settings.value_range, strict=True)

    def measure(self, trainer: Trainer, pl_module: Any, ema: GeneratorEMA | None) -> Measurement:
        """Draw samples and score them; all ranks must call it, and get the same.

        Args:
            trainer: which ranks there are.
            pl_module: whose samples.
            ema: draw from its average.
        """
        chosen, share = self.settings, {"rank": trainer.global_rank, "world_size": trainer.world_size}
        chunks = generate(
            pl_module, chosen.num_samples, seed=chosen.seed, batch_size=chosen.batch_size, ema=ema, **share
        )
        generator = pl_module.generator
        weights = {f"generator.{name}": t for name, t in (*generator.named_parameters(), *generator.named_buffers())}
        with plain_computation(self._device):
            sampled = weights if ema is None else ema.average(pl_module)
            parameters = [sampled[f"generator.{name}"] for name, _ in generator.named_parameters()]
            protocol = {
                "generator_mode": "eval",
                "batch_norm": describe_norms(generator),
                "ema": describe_average(ema),
                "weights_dtype": describe_dtype(parameters),
                "trainer_precision": str(trainer.precision),
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
                broken, outside = int((~samples.isfinite()).sum()), outside_range(samples, self.settings.value_range)
                tally += torch.tensor([len(samples), samples.numel(), outside, broken], device=scores.device)
                if not broken:
                    images = to_uint8(samples, self.settings.value_range, strict=False)
                    scores.add_pixels(images, real=False)
                    scores.add(*self.features(images), real=False)
            count, total, outside, broken = combine(tally).tolist()
            values = scores.compute() if not broken else dict.fromkeys(self.names, math.nan)
            scores.reset_fakes()
            # here, where the settings are those of the work
            details = {**self._protocol(count, outside / total), **protocol}
        return Measurement(values, details, broken, scores.picture if not broken and place()[0] == 0 else None)

    def free(self) -> None:
        """Forget the reals, and take the network off the device."""
        self._scores = None
        self.features.to("cpu")

    def _protocol(self, count: int, clipped_share: float) -> dict[str, Any]:
        return {
            "num_samples": count,
            **self._card,
            "value_range": list(self.settings.value_range),
            "quantisation": "uint8 by rounding",
            "clipped_share": clipped_share,
            "autocast": False,
            "moments": "float64",
            **self.settings.describe(),
            **({"is_splits": self.splits} if self.features.classifies else {}),
            "device": describe_device(self._device),
            "versions": library_versions(),
        }

    def _check_count(self, count: int, what: str, remedy: str) -> None:
        self.settings.check_count(count, what, remedy, num_features=self.features.num_features)

"""One measurement: reals and fakes through the feature network, once each, and what was done on the way.

This is `GenerativeMetrics` without the question of when, and without logging.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer

from lightning_lead._errors import ConfigurationError
from lightning_lead.callbacks.checks import check_positive, check_range
from lightning_lead.callbacks.ema import GeneratorEMA
from lightning_lead.callbacks.extractor import FeatureNetwork
from lightning_lead.callbacks.feature_scores import CLASSIFIER_SCORES, FeatureScores
from lightning_lead.callbacks.protocol import describe_average, library_versions
from lightning_lead.callbacks.reference import ImageHash, find_reference
from lightning_lead.callbacks.sampling import generate, outside_range, plain_computation, to_uint8

__all__ = ["Measurement", "SampleScorer"]


class Measurement(NamedTuple):
    """Scores by name, with "kid_std" beside "kid"; the protocol; and how many values were not finite."""

    values: dict[str, float]
    protocol: dict[str, Any]
    broken: int


class SampleScorer:
    """Measures the samples of a module against reference images; its arguments are those of `GenerativeMetrics`.

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
        extractor: torch.nn.Module,
        *,
        num_samples: int = 10_000,
        batch_size: int = 250,
        metrics: Sequence[str] = ("fid", "kid"),
        value_range: tuple[float, float] = (-1.0, 1.0),
        reference: Any = None,
        seed: int = 0,
        kid_subsets: int = 100,
        kid_subset_size: int = 1000,
    ) -> None:
        check_positive(num_samples=num_samples, batch_size=batch_size)
        check_positive(kid_subsets=kid_subsets, kid_subset_size=kid_subset_size)
        self._features = FeatureNetwork(extractor)
        if isinstance(metrics, str) or not set(metrics) <= {"fid", "kid"}:
            raise ConfigurationError(f"Cannot compute metrics={metrics!r}; choose from ('fid', 'kid')")
        if not metrics and not self._features.classifies:
            raise ConfigurationError("Cannot score samples with nothing to compute; name 'fid' or 'kid' in metrics")
        self.names = [*metrics, *(CLASSIFIER_SCORES if self._features.classifies else ())]
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.value_range, self.reference = check_range(value_range), reference
        self.kid_subsets, self.kid_subset_size = kid_subsets, kid_subset_size
        self._check_count(num_samples, "samples", "raise num_samples")
        self._scores: FeatureScores | None = None
        self._card: dict[str, Any] = {}
        self._image_shape: tuple[int, ...] = ()

    def prepare(self, trainer: Trainer, pl_module: Any) -> None:
        """Pass the reals; all ranks must call it.

        Args:
            trainer: with the data, if no reference was given.
            pl_module: whose device is used.

        Raises:
            ConfigurationError: no reals, too few, outside the value range, or an extractor that cannot work on them.
        """
        device = pl_module.device
        reference = find_reference(self.reference, trainer, pl_module)
        self._check_count(len(reference), "real images", "pass a larger reference")
        image_hash = ImageHash(self.batch_size)
        with plain_computation(device):
            self._features.to(device)
            first = next(reference.chunks(self.batch_size, value_range=self.value_range))
            _, logits = self._features(first[:2])
            self._scores = FeatureScores(
                num_features=self._features.num_features,
                metrics=self.names,
                chunk=self.batch_size,
                num_classes=None if logits is None else logits.shape[1],
                kid_subsets=self.kid_subsets,
                kid_subset_size=self.kid_subset_size,
                seed=self.seed,
                device=device,
            )
            share = {"rank": trainer.global_rank, "world_size": trainer.world_size}
            for images in reference.chunks(self.batch_size, value_range=self.value_range, **share):
                image_hash.update(images)
                self._scores.add(self._features(images)[0], real=True)
        self._image_shape = tuple(first.shape[1:])
        self._card = {
            "num_reference": len(reference),
            "reference": reference.name,
            "reference_sha256": image_hash.hexdigest(device),
            "extractor": self._features.name,
            "extractor_fingerprint": self._features.fingerprint(),
            "num_features": self._features.num_features,
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
        scores, device = self._scores, pl_module.device
        if scores is None:
            raise ConfigurationError("Cannot measure before prepare(); call it with the same Trainer first")
        share = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        settings = {"seed": self.seed, "batch_size": self.batch_size}
        with plain_computation(device):
            scores.reset_fakes()
            tally = torch.zeros(3, dtype=torch.long, device=device)  # values, outside of the range, not finite
            for samples in generate(pl_module, self.num_samples, ema=ema, **settings, **share):
                broken, outside = int((~samples.isfinite()).sum()), outside_range(samples, self.value_range)
                tally += torch.tensor([samples.numel(), outside, broken], device=device)
                if not broken:
                    scores.add(*self._features(to_uint8(samples, self.value_range, strict=False)), real=False)
            total, outside, broken = trainer.strategy.reduce(tally, reduce_op="sum").tolist()
            values = scores.compute() if not broken else dict.fromkeys(self.names, math.nan)
            scores.reset_fakes()
        return Measurement(values, self._protocol(outside / total) | {"ema": describe_average(ema)}, broken)

    def free(self) -> None:
        """Forget the reals, and take the network off the device."""
        self._scores = None
        self._features.to("cpu")

    def _protocol(self, clipped_share: float) -> dict[str, Any]:
        subsets = {"kid_subsets": self.kid_subsets, "kid_subset_size": self.kid_subset_size}
        return {
            "num_samples": self.num_samples,
            **self._card,
            "value_range": list(self.value_range),
            "quantisation": "uint8 by rounding",
            "clipped_share": clipped_share,
            "generator_mode": "eval",
            "autocast": False,
            "moments": "float64",
            "seed": self.seed,
            "batch_size": self.batch_size,
            **(subsets if "kid" in self.names else {}),
            "versions": library_versions(),
        }

    def _check_count(self, count: int, what: str, remedy: str) -> None:
        width = self._features.num_features
        if "fid" in self.names and count <= width:
            raise ConfigurationError(
                f"Cannot compute FID from fewer {what} than features because the covariance is singular; {remedy} "
                f"above {width} (got {count})"
            )
        if "kid" in self.names and not 2 <= self.kid_subset_size <= count:
            raise ConfigurationError(
                f"Cannot draw KID's subsets because kid_subset_size must be between 2 and the number of {what}, "
                f"{count}; lower it, or {remedy} (got {self.kid_subset_size})"
            )

"""What decides a score besides images and network: counts, neighbours, splits and seeds, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead.callbacks.checks import check_positive, check_range
from lightning_lead.callbacks.metric_names import NEIGHBOUR_SCORES, expand_metrics

__all__ = ["ScoreSettings"]


@dataclass(kw_only=True)
class ScoreSettings:
    """Settings of `GenerativeMetrics` by the same names; `metrics` are one by one afterwards.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> ScoreSettings(metrics=["prdc"]).metrics
        ['precision', 'recall', 'density', 'coverage']
    """

    num_samples: int = 10_000
    batch_size: int = 250
    metrics: Sequence[str] = ("fid", "kid")
    value_range: tuple[float, float] = (-1.0, 1.0)
    seed: int = 0
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    precision_k: int = 3
    density_k: int = 5
    is_splits: int | None = None
    cache: bool | str | Path = True

    def __post_init__(self) -> None:
        check_positive(num_samples=self.num_samples, batch_size=self.batch_size)
        check_positive(kid_subsets=self.kid_subsets, kid_subset_size=self.kid_subset_size)
        check_positive(precision_k=self.precision_k, density_k=self.density_k, is_splits=self.is_splits)
        self.metrics, self.value_range = expand_metrics(self.metrics), check_range(self.value_range)

    def check_count(self, count: int, what: str, remedy: str, *, num_features: int) -> None:
        """Refuse too few images for what is to be computed.

        Args:
            count: of images.
            what: they are.
            remedy: what to do about it.
            num_features: the width of a feature.

        Raises:
            ConfigurationError: too few.
        """
        if "fid" in self.metrics and count <= num_features:
            raise ConfigurationError(
                f"Cannot compute FID from fewer {what} than features because the covariance is singular; {remedy} "
                f"above {num_features} (got {count})"
            )
        if "kid" in self.metrics and not 2 <= self.kid_subset_size <= count:
            raise ConfigurationError(
                f"Cannot draw KID's subsets because kid_subset_size must be between 2 and the number of {what}, "
                f"{count}; lower it, or {remedy} (got {self.kid_subset_size})"
            )
        ks = [self.precision_k, self.density_k] if set(self.metrics) & set(NEIGHBOUR_SCORES) else []
        ks += [1] if "memorization" in self.metrics else []
        if ks and count <= max(ks):
            raise ConfigurationError(
                f"Cannot look for {max(ks)} nearest neighbours because there are too few {what}; {remedy} above "
                f"{max(ks)}, or lower precision_k and density_k (got {count})"
            )

    def describe(self) -> dict[str, Any]:
        """What goes into the protocol of those settings that the metrics use.

        Example:
            >>> ScoreSettings(metrics=["kid"], kid_subset_size=500).describe()
            {'seed': 0, 'batch_size': 250, 'kid_subsets': 100, 'kid_subset_size': 500}
        """
        used = ["seed", "batch_size"]
        used += ["kid_subsets", "kid_subset_size"] if "kid" in self.metrics else []
        used += ["precision_k"] if {"precision", "recall"} & set(self.metrics) else []
        used += ["density_k"] if {"density", "coverage"} & set(self.metrics) else []
        return {name: getattr(self, name) for name in used}

"""Precision, recall, density and coverage: scores from nearest neighbours in feature space.

B_k(x; X): the closed ball around x that reaches to the k-th nearest other point of its own set X; reals x_i, fakes y_j.

    precision = share of y_j in some B_k(x_i; X)         recall   = share of x_i in some B_k(y_j; Y)         (k = 3)
    density   = mean over j of #{i: y_j in B_k(x_i; X)} / k
    coverage  = share of x_i with some y_j in B_k(x_i; X)                                                   (k = 5)

Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019; Naeem et al.,
"Reliable Fidelity and Diversity Metrics for Generative Models", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead.metrics._neighbours import check_neighbours, meet, nearest_squared
from lightning_lead.metrics.base import ImageSet, Score, Statistics

__all__ = ["DENSITY_K", "PRDC", "PRECISION_K"]

PRECISION_K, DENSITY_K = 3, 5
_SCORES = ("precision", "recall", "density", "coverage")


@final
class PRDC(Score):
    """Precision, recall, density and coverage, or some of them.

    Args:
        scores: which of the four.
        precision_k: nearest neighbours of precision and recall, ≥ 1.
        density_k: nearest neighbours of density and coverage, ≥ 1.

    Example:
        >>> import torch
        >>> reals, fakes = (ImageSet(features=torch.tensor(x)) for x in ([[0.0], [1.0], [4.0]], [[0.5], [9.0]]))
        >>> score = PRDC(precision_k=1, density_k=1)
        >>> reals.statistics = score.prepare(reals)
        >>> score.compute(reals, fakes)
        {'precision': 0.5, 'recall': 1.0, 'density': 1.0, 'coverage': 0.6666666666666666}
    """

    needs = ("features",)
    keywords = ("prdc", *_SCORES)
    options: ClassVar = {"precision_k": "precision_k", "density_k": "density_k"}

    def __init__(
        self, scores: Sequence[str] = _SCORES, *, precision_k: int = PRECISION_K, density_k: int = DENSITY_K
    ) -> None:
        check_arguments(PRDC, locals())
        check_positive(precision_k=precision_k, density_k=density_k)
        if isinstance(scores, str) or not scores or not set(scores) <= set(_SCORES):
            raise ConfigurationError(f"Cannot compute scores={scores!r}; choose from {_SCORES}")
        self.names = self.scores = tuple(dict.fromkeys(scores))
        self.precision_k, self.density_k = precision_k, density_k
        self._most = max(precision_k, density_k)

    @classmethod
    def named(cls, words: Sequence[str], **settings: Any) -> PRDC:
        """Make those of the four that were named."""
        return cls([name for word in words for name in (_SCORES if word == "prdc" else (word,))], **settings)

    def check(self, samples: int, reals: int | None, num_features: int) -> None:
        """Refuse no more images than neighbours."""
        check_neighbours(self._most, samples, reals)

    def prepare(self, reals: ImageSet) -> Statistics:
        """Measure the distances among the reals, (N, k), of which every ball is made."""
        return {"squared": nearest_squared(reals.features, self._most)}

    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Return those of the four that were asked for."""
        among, k, dense = reals.statistics["squared"], self.precision_k, self.density_k
        radii = {n: among[:, n - 1].contiguous() for n in sorted({k, dense})}
        around_fakes = nearest_squared(fakes.features, k)[:, -1].contiguous() if "recall" in self.scores else None
        meeting = meet(fakes.features, reals.features, radii, around_fakes)
        fakes.shared["nearest_real"] = meeting.nearest_real
        values = {
            "precision": _mean(meeting.balls[k] > 0),
            "recall": _mean(meeting.reached),
            "density": _mean(meeting.balls[dense]) / dense,
            "coverage": _mean(meeting.nearest_fake <= radii[dense]),
        }
        return {name: values[name] for name in self.scores}

    def protocol(self) -> dict[str, Any]:
        """Return the numbers of neighbours that matter to the scores."""
        used = {"precision_k": {"precision", "recall"}, "density_k": {"density", "coverage"}}
        return {name: getattr(self, name) for name, scores in used.items() if scores & set(self.scores)}

    def statistics_name(self) -> str:
        """Return the name by all that the distances depend on."""
        return f"neighbours{self._most}"


def _mean(values: Tensor) -> float:
    return int(values.sum()) / len(values)

"""The score of a classifier's view of the samples; with Inception's classifier it is the Inception Score.

    score = exp( mean_i KL(p(·|x_i) ‖ p(·)) )                     (Salimans et al., 2016)

From all samples, or, as published Inception Scores are, the mean ± standard deviation over equal parts of them in a
random order. Parts have fewer samples, which lowers the score a little: the two do not compare.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead.metrics.base import ImageSet, Score

__all__ = ["WITH_CLASSIFIER", "ClassifierScore"]

INCEPTION_SPLITS = 10
"""Parts that published Inception Scores are averaged over."""
SHUFFLE_SEED = 2020  # torch-fidelity's
WITH_CLASSIFIER = (
    "The Inception Score, or another classifier's, comes by itself where the extractor has a classifier; Inception's "
    "weights without one are replaced by `lightning-lead fetch inception --source official`"
)


@final
class ClassifierScore(Score):
    """The classifier's score, the share of the smallest class, and the mean top probability.

    It is computed without being named where the extractor has a method `classify`. Of one that names its score, by an
    attribute `score_name`, it is that score alone: shares of classes mean nothing for a classifier of other images, as
    Inception is on CIFAR-10.

    Args:
        splits: parts that the score is averaged over, ≥ 1; default 10 for "inception_score", else 1. With more than one
            the record has the deviation over parts, and the score of the whole.
        name: of the score, if it has one of its own.

    Example:
        >>> sure = ImageSet(logits=torch.tensor([[9.0, -9.0], [-9.0, 9.0]]))
        >>> {name: round(value, 3) for name, value in ClassifierScore().compute(ImageSet(), sure).items()}
        {'classifier_score': 2.0, 'class_coverage': 0.5, 'confidence': 1.0}
    """

    needs = ("logits",)
    options: ClassVar = {"is_splits": "splits"}

    def __init__(self, splits: int | None = None, name: str | None = None) -> None:
        check_arguments(ClassifierScore, locals())
        check_positive(splits=splits)
        self.splits = splits or (INCEPTION_SPLITS if name == "inception_score" else 1)
        self.name = name
        self.names = ("classifier_score", "class_coverage", "confidence") if name is None else (name,)

    def check(self, samples: int, reals: int | None, num_features: int) -> None:
        """Refuse more parts than samples."""
        if self.splits > samples:
            raise ConfigurationError(
                f"Cannot split the samples into is_splits={self.splits} parts because there are fewer; raise "
                f"num_samples (got {samples})"
            )

    def compute(self, reals: ImageSet, fakes: ImageSet) -> dict[str, float]:
        """Return the score, and more of a classifier of the images' own classes."""
        values = dict(zip(self.names, _of_all(fakes.logits, fakes.chunk), strict=False))
        if self.splits > 1:
            score = self.names[0]
            mean, deviation = _of_parts(fakes.logits, self.splits)
            values |= {score: mean, f"{score}_std": deviation, f"{score}_whole": values[score]}
        return values

    def protocol(self) -> dict[str, Any]:
        """Return the number of parts."""
        return {"is_splits": self.splits}


def _of_all(logits: Tensor, chunk: int | None) -> tuple[float, float, float]:
    """Return score, smallest class's share and mean top probability, by sums over chunks: float64 of all is large."""
    classes = logits.shape[1]
    total = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    counts = torch.zeros(classes, dtype=torch.long, device=logits.device)
    negative_entropy, confidence = total.new_zeros(()), total.new_zeros(())
    for part in logits.split(chunk or len(logits)):
        p = part.double().softmax(dim=1)
        top, predicted = p.max(dim=1)
        total += p.sum(dim=0)
        counts += torch.bincount(predicted, minlength=classes)
        negative_entropy -= torch.special.entr(p).sum()
        confidence += top.sum()
    marginal = total / len(logits)
    # mean KL(p_i ‖ m) = mean Σ p log p − Σ m log m, because the mean of the p_i is m
    divergence = negative_entropy / len(logits) + torch.special.entr(marginal).sum()
    return float(divergence.exp()), float(counts.min().double() / len(logits)), float(confidence / len(logits))


def _of_parts(logits: Tensor, splits: int) -> tuple[float, float]:
    """Return mean and standard deviation of the score over parts of the samples, as torch-fidelity counts them."""
    count = len(logits)
    order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(count)).to(logits.device)
    scores = []
    for k in range(splits):
        p = logits[order[k * count // splits : (k + 1) * count // splits]].double().softmax(dim=1)
        # mean KL(p_i ‖ m) by entropies: finite for a class that nothing falls into
        divergence = torch.special.entr(p.mean(dim=0)).sum() - torch.special.entr(p).sum(dim=1).mean()
        scores.append(float(divergence.exp()))
    return float(np.mean(scores)), float(np.std(scores))

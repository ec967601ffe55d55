"""What a classifier makes of samples: the classifier score, which of Inception is the Inception Score.

    score = exp( mean_i KL(p(·|x_i) ‖ p(·)) )                     (Salimans et al., 2016)

From sums over all samples, or, as published Inception Scores are, the mean ± standard deviation over equal parts of the
samples in a random order. Parts have fewer samples, which lowers the score a little: the two do not compare.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["CLASSIFIER_SCORES", "INCEPTION_SPLITS", "ClassifierStatistics", "split_scores"]

CLASSIFIER_SCORES = ("classifier_score", "class_coverage", "confidence")
INCEPTION_SPLITS = 10
"""Parts that published Inception Scores are averaged over."""
SHUFFLE_SEED = 2020  # torch-fidelity's


class ClassifierStatistics(Metric):
    """Classifier score, smallest class share and mean top probability, from sums over samples and ranks.

    Args:
        num_classes: K ≥ 2.

    Example:
        >>> statistics = ClassifierStatistics(num_classes=2)
        >>> statistics.update(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]))
        >>> {name: round(value.item(), 3) for name, value in statistics.compute().items()}
        {'classifier_score': 2.0, 'class_coverage': 0.5, 'confidence': 1.0}
    """

    full_state_update = False
    probabilities: Tensor
    classes: Tensor
    negative_entropy: Tensor
    confidence: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("probabilities", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("classes", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("negative_entropy", "confidence"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Add samples.

        Args:
            logits: (n, K).
        """
        p = logits.double().softmax(dim=1)
        top, predicted = p.max(dim=1)
        self.probabilities += p.sum(dim=0)
        self.classes += torch.bincount(predicted, minlength=len(self.classes))
        self.negative_entropy -= torch.special.entr(p).sum()
        self.confidence += top.sum()
        self.count += len(p)

    def compute(self) -> dict[str, Tensor]:
        """Name -> value, over all ranks."""
        marginal = self.probabilities / self.count
        # mean KL(p_i ‖ m) = mean Σ p log p − Σ m log m, because the mean of the p_i is m
        divergence = self.negative_entropy / self.count + torch.special.entr(marginal).sum()
        return {
            "classifier_score": divergence.exp(),
            "class_coverage": self.classes.min().double() / self.count,
            "confidence": self.confidence / self.count,
        }


def split_scores(logits: Tensor, splits: int) -> tuple[float, float]:
    """Mean and standard deviation of the score over parts of the samples, as torch-fidelity counts them.

    Args:
        logits: (n, K), n ≥ splits.
        splits: parts, ≥ 1.

    Example:
        >>> mean, deviation = split_scores(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]).repeat(20, 1), splits=2)
        >>> 1.9 < mean <= 2.0, deviation < 0.1
        (True, True)
    """
    count = len(logits)
    order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(count)).to(logits.device)
    scores = []
    for k in range(splits):
        p = logits[order[k * count // splits : (k + 1) * count // splits]].double().softmax(dim=1)
        # mean KL(p_i ‖ m) by entropies: finite for a class that nothing falls into
        divergence = torch.special.entr(p.mean(dim=0)).sum() - torch.special.entr(p).sum(dim=1).mean()
        scores.append(float(divergence.exp()))
    return float(np.mean(scores)), float(np.std(scores))

"""Scores of samples from features that were computed once: FID, KID, and what a classifier makes of them.

    FID = |μ − ν|² + tr(Σ + Π − 2 (Σ Π)^½)                     (Heusel et al., 2017)
    KID = unbiased MMD² under (x·y / F + 1)³, mean over subsets   (Bińkowski et al., 2018)
    classifier score = exp( mean_i KL(p(·|x_i) ‖ p(·)) )          (Salimans et al., 2016, there of Inception)

All in float64. FID and the classifier's numbers need sums alone; KID keeps every feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_lead.calculus.noise import private_rng

__all__ = ["CLASSIFIER_SCORES", "ClassifierStatistics", "FeatureScores", "gather_in_order"]

CLASSIFIER_SCORES = ("classifier_score", "class_coverage", "confidence")


class _PassThrough(nn.Module):
    """Stands where torchmetrics expects a feature network, so that images pass the real one only once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


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


class FeatureScores:
    """FID and KID of fakes against reals, and the classifier's view of the fakes; the same on every rank.

    Args:
        num_features: F, the width of a feature.
        metrics: what to compute of "fid" and "kid"; other names are passed over.
        num_classes: of the logits, or None if there are none.
        chunk: samples per chunk; chunk k is on rank k mod the number of ranks.
        kid_subsets: random subsets that KID averages over.
        kid_subset_size: samples in each.
        seed: of the subsets.
        device: where the sums are kept.

    Example:
        >>> scores = FeatureScores(num_features=2, metrics=["fid"], chunk=4)
        >>> scores.add(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), real=True)
        >>> scores.add(torch.tensor([[3.0, 0.0], [4.0, 0.0], [3.0, 1.0], [4.0, 1.0]]), real=False)
        >>> round(scores.compute()["fid"], 6)
        9.0
    """

    def __init__(
        self,
        *,
        num_features: int,
        metrics: Sequence[str],
        chunk: int,
        num_classes: int | None = None,
        kid_subsets: int = 100,
        kid_subset_size: int = 1000,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        device = torch.device(device)
        # Apple's GPUs have no float64
        self._device = torch.device("cpu") if device.type == "mps" else device
        self._chunk, self._seed = chunk, seed
        self._subsets, self._subset_size = kid_subsets, kid_subset_size
        self._empty = torch.zeros(0, num_features, device=self._device)
        self._fid = None
        if "fid" in metrics:
            self._fid = FrechetInceptionDistance(_PassThrough(num_features), reset_real_features=False)
            self._fid.set_dtype(torch.float64).to(self._device)
        self._kid = "kid" in metrics
        self._reals: list[Tensor] = []
        self._fakes: list[Tensor] = []
        self._all_reals: Tensor | None = None
        self._classifier = ClassifierStatistics(num_classes).to(self._device) if num_classes is not None else None
        self.add(self._empty, real=True)
        self.reset_fakes()

    def add(self, features: Tensor, logits: Tensor | None = None, *, real: bool) -> None:
        """Add a chunk.

        Args:
            features: (n, F), float32.
            logits: (n, K), of fakes.
            real: whose they are; reals stay, fakes go with `reset_fakes`.
        """
        features = features.to(self._device)
        if self._fid is not None:
            # float64 in, or the result is rounded to the dtype of the features on its way out
            self._fid.update(features.double(), real=real)
        if self._kid:
            (self._reals if real else self._fakes).append(features)
        if self._classifier is not None and logits is not None and not real:
            self._classifier.update(logits.to(self._device))

    def reset_fakes(self) -> None:
        """Forget the fakes."""
        if self._fid is not None:
            self._fid.reset()
        if self._classifier is not None:
            self._classifier.reset()
        self._fakes = []
        self.add(self._empty, real=False)  # a rank may get no chunk at all, and has to join in all the same

    def compute(self) -> dict[str, float]:
        """Name -> value; all ranks must call it."""
        values: dict[str, float] = {}
        if self._fid is not None:
            values["fid"] = float(self._fid.compute())
        if self._kid:
            values |= self._compute_kid()
        if self._classifier is not None:
            values |= {name: float(value) for name, value in self._classifier.compute().items()}
        return values

    def _compute_kid(self) -> dict[str, float]:
        if self._all_reals is None:
            self._all_reals = gather_in_order(torch.cat(self._reals), self._chunk)
            self._reals = []
        fakes = gather_in_order(torch.cat(self._fakes), self._chunk)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
            kid = KernelInceptionDistance(
                _PassThrough(self._all_reals.shape[1]),
                subsets=self._subsets,
                subset_size=self._subset_size,
                sync_on_compute=False,  # every rank has all rows already
            )
        kid.to(self._device)
        kid.update(self._all_reals.double(), real=True)
        kid.update(fakes.double(), real=False)
        with private_rng(self._seed):  # the subsets come from the global generator of the CPU
            mean, deviation = kid.compute()
        return {"kid": float(mean), "kid_std": float(deviation)}


def gather_in_order(rows: Tensor, chunk: int) -> Tensor:
    """All ranks' rows in the order that one process would have them.

    Args:
        rows: (n, ...), this rank's chunks 0, 1, … which are the chunks rank, rank + ranks, … of the whole.
        chunk: rows in each but the last of the whole.

    Returns:
        (N, ...) on every rank.

    Example:
        >>> gather_in_order(torch.arange(3), chunk=2)
        tensor([0, 1, 2])
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    per_rank = [list(part.split(chunk)) if len(part) else [] for part in gather_all_tensors(rows)]
    pieces = [per_rank[k % len(per_rank)][k // len(per_rank)] for k in range(sum(len(chunks) for chunks in per_rank))]
    return torch.cat(pieces) if pieces else rows

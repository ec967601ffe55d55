"""Scores of samples from features that were computed once: FID, KID, neighbours, and what a classifier makes of them.

    FID = |μ − ν|² + tr(Σ + Π − 2 (Σ Π)^½)                     (Heusel et al., 2017)
    KID = unbiased MMD² under (x·y / F + 1)³, mean over subsets   (Bińkowski et al., 2018)

All in float64. FID and the classifier's numbers need sums alone; KID and neighbours keep every feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_lead.callbacks.classifier_statistics import CLASSIFIER_SCORES, ClassifierStatistics, split_scores
from lightning_lead.callbacks.kernel_distance import PassThrough, kernel_distance
from lightning_lead.callbacks.memorization import beside_nearest, memorization_scores, nearest, pixel_points
from lightning_lead.callbacks.metric_names import NEIGHBOUR_SCORES
from lightning_lead.callbacks.neighbours import meet, nearest_squared, neighbour_scores
from lightning_lead.callbacks.ranks import combine, gather_in_order, place

__all__ = ["CLASSIFIER_SCORES", "ClassifierStatistics", "FeatureScores", "gather_in_order"]

Statistics = dict[str, Tensor]
_MOMENTS = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class FeatureScores:
    """Scores of fakes against reals, and the classifier's view of the fakes; the same on every rank.

    Args:
        num_features: F, the width of a feature.
        metrics: what to compute of `metric_names.METRICS`; other names are passed over.
        num_classes: of the logits, or None if there are none.
        image_shape: (C, H, W), needed for "memorization".
        score_names: of the classifier: of its score, and of more, see `ClassifierStatistics`.
        splits: parts that the classifier's score is averaged over, ≥ 1.
        chunk: samples per chunk; chunk k is on rank k mod the number of ranks.
        kid_subsets: random subsets that KID averages over.
        kid_subset_size: samples in each.
        precision_k: neighbours of precision and recall.
        density_k: neighbours of density and coverage.
        seed: of the subsets.
        device: where sums and features are kept.

    Attributes:
        picture: after `compute`, on rank 0, with "memorization": samples above their nearest reals, (3, H, W).

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
        image_shape: Sequence[int] = (1, 1, 1),
        score_names: Sequence[str] = CLASSIFIER_SCORES,
        splits: int = 1,
        kid_subsets: int = 100,
        kid_subset_size: int = 1000,
        precision_k: int = 3,
        density_k: int = 5,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        device = torch.device(device)
        # Apple's GPUs have no float64
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.picture: Tensor | None = None
        self._metrics, self._chunk = set(metrics), chunk
        self._subsets = {"subsets": kid_subsets, "subset_size": kid_subset_size, "seed": seed}
        self._precision_k, self._density_k = precision_k, density_k
        self._score_names, self._splits = tuple(score_names), splits
        self._neighbours = bool(self._metrics & set(NEIGHBOUR_SCORES))
        self._copies = "memorization" in self._metrics
        self._keeps = self._neighbours or self._copies or "kid" in self._metrics
        self._fid = None
        if "fid" in self._metrics:
            self._fid = FrechetInceptionDistance(PassThrough(num_features), reset_real_features=False)
            self._fid.set_dtype(torch.float64).to(self.device)
        self._classifier = ClassifierStatistics(num_classes).to(self.device) if num_classes is not None else None
        # a rank may get no chunk at all, and has to join in all the same
        self._nothing = {
            "features": torch.zeros(0, num_features, device=self.device),
            "logits": torch.zeros(0, num_classes or 0, device=self.device),
            "pixels": pixel_points(torch.zeros(0, *image_shape, dtype=torch.uint8, device=self.device)),
        }
        self._rows: dict[tuple[str, bool], list[Tensor]] = {}  # (what, whether of reals) -> this rank's chunks
        self._reals: dict[str, Statistics] = {}
        self.add(self._nothing["features"], real=True)
        self.reset_fakes()

    # ---- what comes in ----------------------------------------------------------------------------------------------

    def add(self, features: Tensor, logits: Tensor | None = None, *, real: bool) -> None:
        """Add a chunk.

        Args:
            features: (n, F), float32.
            logits: (n, K), of fakes.
            real: whose they are; reals stay, fakes go with `reset_fakes`.
        """
        features = features.to(self.device)
        if self._fid is not None:
            # float64 in, or the result is rounded to the dtype of the features on its way out
            self._fid.update(features.double(), real=real)
        if self._keeps:
            self._keep("features", real, features)
        if self._classifier is not None and logits is not None and not real:
            self._classifier.update(logits.to(self.device))
            if self._splits > 1:
                self._keep("logits", real, logits.to(self.device).float())

    def add_pixels(self, images: Tensor, *, real: bool) -> None:
        """Add a chunk's pixels, for the distances of memorization.

        Args:
            images: (n, C, H, W), uint8.
            real: whose they are.
        """
        if self._copies:
            self._keep("pixels", real, pixel_points(images.to(self.device)))

    def reset_fakes(self) -> None:
        """Forget the fakes."""
        if self._fid is not None:
            self._fid.reset()
        if self._classifier is not None:
            self._classifier.reset()
        self._rows = {key: rows for key, rows in self._rows.items() if key[1]}
        self.add(self._nothing["features"], real=False)

    # ---- what is known of the reals ---------------------------------------------------------------------------------

    @property
    def kinds(self) -> list[str]:
        """The statistics of the reals that the scores are made of, in the order in which they are computed."""
        kinds = ["moments"] if self._fid is not None else []
        kinds += ["features"] if self._keeps else []
        kinds += [f"neighbours{self._most_neighbours}"] if self._neighbours or self._copies else []
        return kinds + (["pixel_neighbours"] if self._copies else [])

    def reals(self, kind: str) -> Statistics:
        """One of `kinds`, over all ranks, computed on first use; all ranks must call it.

        Args:
            kind: its name.
        """
        if kind not in self._reals:
            self.restore(kind, self._compute_reals(kind))
        return self._reals[kind]

    def restore(self, kind: str, tensors: Statistics) -> None:
        """Take a statistic of the reals over, instead of computing it.

        Args:
            kind: its name.
            tensors: as `reals` returned them, on every rank.
        """
        self._reals[kind] = tensors
        if kind == "moments" and self._fid is not None:
            for name in _MOMENTS:  # torchmetrics sums over ranks: one of them has all, the others nothing
                own = tensors[name].to(self.device)
                setattr(self._fid, name, own.clone() if place()[0] == 0 else torch.zeros_like(own))

    @property
    def _most_neighbours(self) -> int:
        return max(self._precision_k, self._density_k) if self._neighbours else 1

    def _compute_reals(self, kind: str) -> Statistics:
        if kind == "moments":
            return {name: combine(getattr(self._fid, name).clone()) for name in _MOMENTS}
        if kind in ("features", "pixels"):
            rows = self._gather(kind, real=True)
            self._rows[kind, True] = []
            return {kind: rows}
        if kind == "pixel_neighbours":
            return {"squared": nearest_squared(self.reals("pixels")["pixels"].flatten(1), 1)}
        return {"squared": nearest_squared(self.reals("features")["features"], self._most_neighbours)}

    # ---- what comes out ---------------------------------------------------------------------------------------------

    def compute(self) -> dict[str, float]:
        """Name -> value; all ranks must call it."""
        values: dict[str, float] = {}
        if self._fid is not None:
            self.reals("moments")
            values["fid"] = float(self._fid.compute())
        if self._keeps:
            reals, fakes = self.reals("features")["features"], self._gather("features", real=False)
            if "kid" in self._metrics:
                values |= kernel_distance(reals, fakes, **self._subsets)
            if self._neighbours or self._copies:
                values |= self._compute_neighbours(reals, fakes)
        if self._classifier is not None:
            values |= self._compute_classifier(self._classifier)
        return values

    def _compute_neighbours(self, reals: Tensor, fakes: Tensor) -> dict[str, float]:
        among = self.reals(f"neighbours{self._most_neighbours}")["squared"]
        ks = {self._precision_k, self._density_k} if self._neighbours else set()
        radii = {k: among[:, k - 1].contiguous() for k in sorted(ks)}
        around_fakes = None
        if "recall" in self._metrics:
            around_fakes = nearest_squared(fakes, self._precision_k)[:, -1].contiguous()
        meeting = meet(fakes, reals, radii, around_fakes)
        values: dict[str, float] = {}
        if self._neighbours:
            scores = neighbour_scores(meeting, radii, precision_k=self._precision_k, density_k=self._density_k)
            values |= {name: value for name, value in scores.items() if name in self._metrics}
        if self._copies:
            real_pixels, fake_pixels = self.reals("pixels")["pixels"], self._gather("pixels", real=False)
            found = meet(fake_pixels.flatten(1), real_pixels.flatten(1), {})
            in_pixels = self.reals("pixel_neighbours")["squared"][:, 0]
            features = nearest(fakes, reals, meeting.nearest_real, among[:, 0])
            pixels = nearest(fake_pixels, real_pixels, found.nearest_real, in_pixels)
            values |= memorization_scores(features, pixels)
            if place()[0] == 0:
                self.picture = beside_nearest(fake_pixels, real_pixels, features, pixels)
        return values

    def _compute_classifier(self, classifier: ClassifierStatistics) -> dict[str, float]:
        found = {name: float(value) for name, value in classifier.compute().items()}
        values = {name: found[old] for name, old in zip(self._score_names, CLASSIFIER_SCORES, strict=False)}
        if self._splits > 1:
            score = self._score_names[0]
            mean, deviation = split_scores(self._gather("logits", real=False), self._splits)
            values |= {score: mean, f"{score}_std": deviation, f"{score}_whole": values[score]}
        return values

    def _keep(self, what: str, real: bool, rows: Tensor) -> None:
        self._rows.setdefault((what, real), []).append(rows)

    def _gather(self, what: str, *, real: bool) -> Tensor:
        return gather_in_order(torch.cat([self._nothing[what], *self._rows.get((what, real), [])]), self._chunk)

"""Several scores from one pass of every image: what they need is gathered once, over all ranks, and handed to each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_lead._checks import is_class
from lightning_lead._distributed import combine, gather_in_order
from lightning_lead._errors import ConfigurationError
from lightning_lead.metrics._cache import StatisticsCache
from lightning_lead.metrics.base import NEEDS, ImageSet, Moments, Score, Statistics
from lightning_lead.metrics.classifier import WITH_CLASSIFIER

__all__ = ["ScoreCollection", "find_scores", "keywords", "pixel_points", "with_options"]

LARGEST_SIDE = 64


# ---- scores by name -------------------------------------------------------------------------------------------------


def _classes() -> list[type[Score]]:
    """The scores that `lightning_lead.metrics` exports."""
    metrics = import_module("lightning_lead.metrics")
    exported = [getattr(metrics, name) for name in metrics.__all__]
    return [value for value in exported if is_class(value) and issubclass(value, Score) and value is not Score]


def keywords() -> dict[str, type[Score]]:
    """Return the names that may stand in `metrics`, with the scores that they stand for."""
    return {word: score for score in _classes() for word in score.keywords}


def find_scores(metrics: Sequence[str | Score], options: Mapping[str, Any]) -> list[Score]:
    """Return the scores that were named or given, each once; options are by the names of `GenerativeMetrics`."""
    known = keywords()
    named = [] if isinstance(metrics, str) else [m for m in metrics if not isinstance(m, Score)]
    if isinstance(metrics, str) or not all(isinstance(m, str) and m in known for m in named):
        raise ConfigurationError(f"Cannot compute metrics={metrics!r}; choose from {tuple(known)}. {WITH_CLASSIFIER}")
    if unknown := set(options) - {option for score in _classes() for option in score.options}:
        raise ConfigurationError(f"Cannot use {sorted(unknown)} because no score has such options; leave them out")
    words: dict[type[Score], list[str]] = {}
    found: list[Score | type[Score]] = []
    for given in metrics:
        score = known[given] if isinstance(given, str) else given
        if isinstance(given, str):
            words.setdefault(known[given], []).append(given)
        if score not in found:
            found.append(score)
    scores = [s if isinstance(s, Score) else s.named(words[s], **_picked(s, options)) for s in found]
    if unknown := {need for score in scores for need in score.needs} - set(NEEDS):
        raise ConfigurationError(f"Cannot gather what scores need; choose needs from {NEEDS} (got {sorted(unknown)})")
    names = [name for score in scores for name in score.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"Cannot tell scores of one name apart; leave out one of each (got {twice} twice)")
    return scores


def with_options(score: Score, options: Mapping[str, Any]) -> Score:
    """Return the score with those options that it has, by the names of `GenerativeMetrics`."""
    changed = _picked(type(score), options)
    return type(score)(**(score.settings | changed)) if changed else score


def _picked(score: type[Score], options: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {argument: options.get(option) for option, argument in score.options.items()}
    return {argument: value for argument, value in wanted.items() if value is not None}


# ---- what they see --------------------------------------------------------------------------------------------------


def pixel_points(images: Tensor) -> Tensor:
    """Return images (n, C, H, W), uint8, averaged down where a side is longer than 64."""
    height, width = images.shape[-2:]
    size = min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)
    if size == (height, width):
        return images
    if not len(images):  # not every device averages nothing
        return images.new_zeros(*images.shape[:-2], *size)
    return adaptive_avg_pool2d(images.float(), size).round().to(torch.uint8)


class _Seen:
    """This rank's chunks of one set of images, as far as scores need them."""

    def __init__(self, needs: Sequence[str], nothing: Mapping[str, Tensor]) -> None:
        # a rank may get no chunk at all, and has to join in all the same
        self._rows = {need: [nothing[need]] for need in needs if need != "moments"}
        self._moments = Moments.of(nothing["features"]) if "moments" in needs else None

    def add(self, **chunk: Tensor) -> None:
        for name, rows in chunk.items():
            if name in self._rows:
                self._rows[name].append(rows)
        if self._moments is not None and "features" in chunk:
            self._moments = Moments(*map(torch.add, self._moments, Moments.of(chunk["features"])))

    def gather(self, need: str, chunk: int) -> Statistics:
        """Return one need over all ranks; all of them must call it."""
        if need == "moments":
            assert self._moments is not None
            return {name: combine(tensor) for name, tensor in self._moments._asdict().items()}
        return {need: gather_in_order(torch.cat(self._rows.pop(need)), chunk)}


class ScoreCollection:
    """Scores of fakes against reals, the same on every rank."""

    def __init__(
        self,
        scores: Sequence[Score],
        *,
        num_features: int,
        chunk: int,
        logits: Tensor | None = None,
        image_shape: Sequence[int] = (1, 1, 1),
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        device = torch.device(device)
        # Apple's GPUs have no float64
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.picture: Tensor | None = None
        """After `compute`, if a score has left one, (3, H, W)."""
        self._scores, self._chunk, self._seed = list(scores), chunk, seed
        wanted = {need for score in scores for need in score.needs}
        self._needs = [need for need in NEEDS if need in wanted]
        self._of_reals = [need for need in self._needs if need != "logits"]
        empty = torch.zeros(0, num_features)
        nothing = {
            "features": empty,
            "logits": empty.new_zeros(0, 0) if logits is None else logits[:0],
            "pixels": pixel_points(torch.zeros(0, *image_shape, dtype=torch.uint8)),
        }
        self._nothing = {name: rows.to(self.device) for name, rows in nothing.items()}
        self._real, self._fake = _Seen(self._of_reals, self._nothing), _Seen(self._needs, self._nothing)
        self._reals: list[ImageSet] | None = None  # as each score sees them

    def add(self, features: Tensor, logits: Tensor | None = None, *, real: bool) -> None:
        """Add a chunk's features (n, F), float32, and of fakes their logits (n, K)."""
        seen = self._real if real else self._fake
        seen.add(features=features.to(self.device))
        if logits is not None:
            seen.add(logits=logits.to(self.device))

    def add_pixels(self, images: Tensor, *, real: bool) -> None:
        """Add a chunk's bytes (n, C, H, W)."""
        if "pixels" in self._needs:
            (self._real if real else self._fake).add(pixels=pixel_points(images.to(self.device)))

    def reset_fakes(self) -> None:
        """Forget the fakes."""
        self._fake = _Seen(self._needs, self._nothing)

    def prepare(self, cache: StatisticsCache | None = None, forward: Callable[[], None] = lambda: None) -> None:
        """Find what is needed of the reals, in the cache or by computing it; all ranks must call it."""
        cache = cache or StatisticsCache(None, {}, torch.empty(0))
        from_features = [need for need in self._of_reals if need != "pixels"]
        found = {need: cache.load(need, self.device) for need in from_features}
        if None in found.values():  # one pass of the images makes both
            found = {}
            forward()
        common: dict[str, Any] = {"seed": self._seed, "chunk": self._chunk}
        for need in self._of_reals:
            statistics = found.get(need)
            if statistics is None:
                statistics = self._real.gather(need, self._chunk)
                if need in from_features:
                    cache.save(need, statistics)
            common[need] = Moments(**statistics) if need == "moments" else statistics[need]
        reals = ImageSet(**common)
        self._reals = [copy.copy(reals) for _ in self._scores]
        for score, own in zip(self._scores, self._reals, strict=True):
            if type(score).prepare is not Score.prepare:
                own.statistics = cache.take(score.statistics_name(), self.device, partial(score.prepare, reals))

    def compute(self) -> dict[str, float]:
        """Return name -> value; all ranks must call it."""
        if self._reals is None:
            self.prepare()
        gathered = {need: self._fake.gather(need, self._chunk) for need in self._needs}
        self.reset_fakes()
        rows = {need: found[need] for need, found in gathered.items() if need != "moments"}
        moments = Moments(**gathered["moments"]) if "moments" in gathered else None
        fakes = ImageSet(**rows, moments=moments, seed=self._seed, chunk=self._chunk)
        values: dict[str, float] = {}
        for score, reals in zip(self._scores, self._reals or [], strict=True):
            found = score.compute(reals, fakes)
            if missing := set(score.names) - found.keys():
                raise ConfigurationError(
                    f"Cannot log {sorted(missing)} because {type(score).__name__} computes {sorted(found)}; return a "
                    "number for each of its names"
                )
            values |= found
        self.picture = fakes.shared.get("picture")
        return values

"""Which scores can be asked for, by the names that the field gives them, and what is logged for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead.callbacks.classifier_statistics import CLASSIFIER_SCORES, INCEPTION_SPLITS
from lightning_lead.callbacks.memorization import MEMORIZATION_SCORES

__all__ = [
    "METRICS",
    "NEIGHBOUR_SCORES",
    "WITH_CLASSIFIER",
    "classifier_names",
    "default_splits",
    "expand_metrics",
    "logged_names",
]

NEIGHBOUR_SCORES = ("precision", "recall", "density", "coverage")
METRICS = ("fid", "kid", *NEIGHBOUR_SCORES, "memorization")
WITH_CLASSIFIER = (
    "The Inception Score, or another classifier's, comes by itself where the extractor has a classifier; Inception's "
    "weights without one are replaced by `lightning-lead fetch inception --source official`"
)
GROUPS = {"prdc": NEIGHBOUR_SCORES}


def expand_metrics(metrics: Sequence[str]) -> list[str]:
    """The metrics one by one, each once.

    Args:
        metrics: names of METRICS, or "prdc" for precision, recall, density and coverage together.

    Raises:
        ConfigurationError: an unknown name.

    Example:
        >>> expand_metrics(["fid", "prdc"])
        ['fid', 'precision', 'recall', 'density', 'coverage']
    """
    known = (*METRICS, *GROUPS)
    if isinstance(metrics, str) or not set(metrics) <= set(known):
        raise ConfigurationError(f"Cannot compute metrics={metrics!r}; choose from {known}. {WITH_CLASSIFIER}")
    return list(dict.fromkeys(name for given in metrics for name in GROUPS.get(given, (given,))))


def classifier_names(network: Any) -> tuple[str, ...]:
    """What the classifier's scores are called: of a network that names its score, that one alone.

    Shares of classes mean nothing for a classifier of other images, such as Inception's on CIFAR-10.

    Args:
        network: the extractor, with `score_name` if its score has a name of its own ("inception_score").

    Example:
        >>> from types import SimpleNamespace
        >>> classifier_names(SimpleNamespace(score_name="inception_score"))
        ('inception_score',)
    """
    name = getattr(network, "score_name", None)
    return CLASSIFIER_SCORES if name is None else (str(name),)


def default_splits(network: Any) -> int:
    """Parts that the classifier's score is averaged over: ten for an Inception Score, else all samples at once.

    Args:
        network: the extractor.

    Example:
        >>> default_splits(None)
        1
    """
    return INCEPTION_SPLITS if getattr(network, "score_name", None) == "inception_score" else 1


def logged_names(metrics: Sequence[str], network: Any, *, classifies: bool) -> list[str]:
    """The names that are logged.

    Args:
        metrics: as `expand_metrics` returns them.
        network: the extractor.
        classifies: whether it has a classifier.

    Example:
        >>> logged_names(["fid", "memorization"], None, classifies=False)
        ['fid', 'memorization', 'memorization_pixels', 'authenticity']
    """
    names = [name for metric in metrics for name in (MEMORIZATION_SCORES if metric == "memorization" else (metric,))]
    return [*names, *(classifier_names(network) if classifies else ())]

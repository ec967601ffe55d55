"""Settings that are tried together: any two values of two settings meet in some test, not every combination.

Most faults need one value or two that meet. `LIGHTNING_LEAD_THOROUGH=1 make test` tries every combination.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import Any

__all__ = ["pairwise", "some", "thorough"]


def thorough() -> bool:
    """Return True where every case is to be tried."""
    return bool(os.environ.get("LIGHTNING_LEAD_THOROUGH"))


def pairwise(*settings: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return combinations, one value of each setting, such that any two values of two settings are in one of them.

    Args:
        settings: the values of each, in order; of up to some thousand combinations.
    """
    values = [list(each) for each in settings]
    every = list(itertools.product(*(range(len(each)) for each in values)))
    chosen = every if thorough() else _cover(every)
    return [tuple(each[k] for each, k in zip(values, combination, strict=True)) for combination in chosen]


def some(cases: Iterable[Any], count: int) -> list[Any]:
    """Return `count` of the cases, evenly spread; all of them in a thorough run."""
    every = list(cases)
    return every if thorough() or len(every) <= count else [every[k * len(every) // count] for k in range(count)]


def _cover(every: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Take the combination that has most of the pairs that are still missing, until none is."""
    pairs = {combination: set(itertools.combinations(enumerate(combination), 2)) for combination in every}
    missing, chosen = set[Any]().union(*pairs.values()), []
    while missing:
        best = max(every, key=lambda combination: len(pairs[combination] & missing))
        missing -= pairs[best]
        chosen.append(best)
    return chosen

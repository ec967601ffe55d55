"""Differences between ranks that are about to do something, and who has what."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["WAITS", "differences", "ranks_named"]

WAITS = "waits in a collective"
"""In the content of a rank that does not come: then nothing but what comes next is compared."""


def differences(contents: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Say in what ranks differ, and who has what.

    Args:
        contents: rank -> a nest of dicts; floats are equal if they differ by 1e-5 of their size at most.

    Example:
        >>> differences({0: {"clip": None}, 1: {"clip": 0.1}, 2: {"clip": None}})
        ['clip: ranks 0 and 2 null, rank 1 0.1']
    """
    flat = {rank: dict(_flat(content)) for rank, content in sorted(contents.items())}
    if any(WAITS in each for each in flat.values()):
        flat = {rank: {"is next": each.get("is next")} for rank, each in flat.items()}
    found = []
    for path in dict.fromkeys(path for each in flat.values() for path in each):
        having: list[tuple[Any, list[int]]] = []
        for rank, each in flat.items():
            value = each.get(path, "nothing")
            same = next((ranks for known, ranks in having if _equal(known, value)), None)
            if same is None:
                having.append((value, [rank]))
            else:
                same.append(rank)
        if len(having) > 1:
            said = ", ".join(f"{ranks_named(ranks)} {_text(value)}" for value, ranks in having)
            found.append(f"{path}: {said}")
    return found


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ".lstrip())
        else:
            yield prefix + key, value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-5) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def ranks_named(ranks: Sequence[int]) -> str:
    """Return "rank 1", or "ranks 0 and 2"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}" if ranks else "no rank"

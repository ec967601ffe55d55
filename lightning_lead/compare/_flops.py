"""FLOPs of a step, by torch's counter."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

__all__ = ["counted_flops"]


class _NoModules:
    """Counts by operation alone: following modules would forbid derivatives with respect to what they are handed."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def counted_flops(step: Callable[[], object]) -> float:
    """FLOPs of matrix products and convolutions in a step."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        step()
    return float(counter.get_total_flops())

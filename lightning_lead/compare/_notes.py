"""The lines under the table of a comparison that say how its scores were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_lead.compare._plan import Run
from lightning_lead.evaluate import differences
from lightning_lead.metrics._protocol import describe_protocol

__all__ = ["protocol_notes"]


def protocol_notes(runs: Sequence[Run], results: Sequence[dict[str, Any]]) -> list[str]:
    """Return how the scores of the table were measured, and in what rows differ; nothing without a protocol."""
    known: list[tuple[str, dict[str, Any]]] = []
    silent: list[str] = []
    for run, result in zip(runs, results, strict=True):
        if protocol := (result.get("final") or result).get("protocol"):
            known.append((run.entry.label, protocol))
        elif "failed" not in result:
            silent.append(run.entry.label)
    if not known:
        return []
    first, common = known[0]
    apart: dict[str, dict[str, list[str]]] = {}  # name -> value -> labels
    for label, protocol in known[1:]:
        for name, (one, other) in differences(common, protocol).items():
            labels = apart.setdefault(name, {_shown(one): [first]}).setdefault(_shown(other), [])
            labels += [label] if label not in labels else []
    notes = ["", f"Scores: {describe_protocol(common)}. The whole protocol is in each run's `result.json`."]
    if apart:
        unlike = (
            f"{name} ({'; '.join(f'{value} in ' + ', '.join(labels) for value, labels in values.items())})"
            for name, values in apart.items()
        )
        notes.append(f"**The protocol is not the same in all rows**: {'; '.join(unlike)}.")
    if silent:
        notes.append(f"No protocol is known of {', '.join(dict.fromkeys(silent))}.")
    if counts := {r["protocol"]["num_samples"] for r in results if r.get("final") and r.get("protocol")}:
        shown = " or ".join(map(str, sorted(counts)))
        notes.append(f"The figure shows the scores on the way, of {shown} fakes.")
    return notes


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)

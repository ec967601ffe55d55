"""A table, at the end of a run, of the faults that were tried and of what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def became(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Count a fault: of what kind it was, and what became of it, in a few words ("refused", "same weights")."""
    return lambda kind, outcome: record_property("fault", (kind, outcome))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table, in Markdown."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    counts = Counter(tuple(v) for r in reports for name, v in r.user_properties if name == "fault")
    if not counts:
        return
    kinds = sorted({kind for kind, _ in counts})
    terminalreporter.write_line("\n| fault | tried | what became of it |\n|---|---|---|")
    for kind in kinds:
        outcomes = {outcome: n for (k, outcome), n in sorted(counts.items()) if k == kind}
        what = ", ".join(f"{outcome} {n}" for outcome, n in outcomes.items())
        terminalreporter.write_line(f"| {kind} | {sum(outcomes.values())} | {what} |")

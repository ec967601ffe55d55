"""Runs that are killed at any moment, and resumed from their newest whole checkpoint, end as the uninterrupted one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import processes
import pytest
from pairs import some, thorough

VICTIM = Path(__file__).with_name("kill_victim.py")
KINDS = [
    "plain",
    "exact",
    "difference",
    "extrapolated",
    "auto",
    "LeadMixin",
    "AdversarialModule",
    "bf16",
    "compact",
    "two workers",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", some(KINDS, 3))
def test_a_killed_run_ends_bit_for_bit_where_the_uninterrupted_one_does(kind, tmp_path, became):
    kills = 24 if thorough() else 2
    run = processes.run([VICTIM, tmp_path, kind, kills], timeout=600)
    found = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"moment"')]
    assert len(found) == kills, run.stderr[-3000:]
    for kill in found:
        assert kill["killed"] == -signal.SIGKILL or (kill["moment"] == "by the clock" and kill["killed"] == 0), kill
        assert kill["resumed"] in (0, None), (kill, run.stderr[-3000:])
        assert not kill["off"], kill
        became("kill", "same bits after resume")

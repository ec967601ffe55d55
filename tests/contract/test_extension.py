"""A rule in a file of its own gets the whole contract: the one that the docs show, and one that breaks it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import processes
import pytest
from rules_under_test import FILES, rules_under_test

from lightning_lead import rules

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your_own_rule.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow


def contract(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "pytest", "-q", "tests/contract/test_contract.py", "--rule", path, "-p", "no:cacheprovider"]
    return processes.run([*command, *options], cwd=ROOT, timeout=300)


def source() -> str:
    return re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_rule_on_the_page_passes(tmp_path):
    path = tmp_path / "halfway.py"
    path.write_text(source(), encoding="utf-8")
    done = contract(path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 12
    assert "skipped" not in done.stdout


def test_a_rule_that_is_not_what_it_says_fails(tmp_path):
    """The negative control: a wrong cost, and another equation than the twin's."""
    path = tmp_path / "halfway.py"
    path.write_text(source().replace("gradients=4", "gradients=2").replace("0.5 * g", "0.4 * g"), encoding="utf-8")
    done = contract(path, "-k", "counted_as_declared or hand_written_twin or float32")
    assert done.returncode == 1
    assert "1 passed" in done.stdout  # so not everything fails
    assert "test_evaluations_are_counted_as_declared" in done.stdout
    assert "test_ten_steps_equal_those_of_a_hand_written_twin" in done.stdout


def test_every_exported_rule_is_held_to_the_contract(monkeypatch):
    monkeypatch.delenv(FILES, raising=False)
    held = {type(rule).__name__ for rule in rules_under_test()}
    assert held == {name for name in rules.__all__ if hasattr(getattr(rules, name), "direction")} - {"AbstractGameRule"}

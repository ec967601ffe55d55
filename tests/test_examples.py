"""The examples run, briefly."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, *command):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_gan", "lead_gan"])
def test_the_gan_and_its_port_train(name, tmp_path):
    assert "game steps: 5" in run(tmp_path, EXAMPLES / "port" / f"{name}.py", "--batches", 5)


def test_the_port_changes_fewer_than_20_lines():
    before, after = ((EXAMPLES / "port" / f"{n}.py").read_text().splitlines() for n in ("plain_gan", "lead_gan"))
    changed = [line for line in difflib.ndiff(before, after) if line.startswith("+ ") and line[2:].strip()]
    assert 0 < len(changed) < 20


@pytest.mark.slow
def test_the_demo_ends_with_a_table_and_the_files_that_it_names(tmp_path):
    out = run(tmp_path, EXAMPLES / "demo.py", "--steps", 2, "--every", 2)
    table = out[out.index("method  ") :]
    assert [line.split("  ")[0] for line in table.splitlines()[1:5]] == [
        "Adam (0.5)",
        "LEAD-Adam (0.5) exact",
        "LEAD-Adam (0.5) difference",
        "Adam (0.0)",
    ]
    for what in ("samples", "FID plot", "metrics", "checkpoint"):
        (line,) = [line for line in table.splitlines() if line.startswith(what)]
        assert (tmp_path / line.rsplit(": ", 1)[1]).is_file(), line


@pytest.mark.slow
def test_the_benchmark_ends_with_a_table_of_what_was_asked(tmp_path):
    """Every method that needs no extra package, on the smallest networks; counts are exact, times are not looked at."""
    methods = [
        "LEAD, exact",
        "LEAD, naive double backward",
        "LEAD as released (stale graph, D only)",
        "ExtraAdam",
        "ExtraAdam, one forward for both players",
    ]
    bench = EXAMPLES / "benchmarks" / "bench.py"
    run(tmp_path, bench, "--device", "cpu", "--workloads", "mlp", "--rounds", 1, "--methods", *methods)
    rows = [line.split(" | ") for line in (tmp_path / "benchmark.md").read_text().splitlines() if "×" in line]
    flops = {row[0].removeprefix("| "): float(row[1].rstrip("×")) for row in rows}
    assert list(flops) == ["Adam", *methods]
    assert (
        1.0 == flops["Adam"] < flops["LEAD, exact"] < flops["ExtraAdam"] == 2.0 < flops["LEAD, naive double backward"]
    )
    traffic = {row[0].removeprefix("| "): float(row[6].rstrip("× |")) for row in rows}
    assert traffic["LEAD, exact"] == 1.0
    assert traffic["ExtraAdam"] == 2.0

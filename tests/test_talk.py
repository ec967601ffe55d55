"""The scripts of the talk run, briefly, and draw what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TALK = Path(__file__).parents[1] / "examples" / "talk"
TALKS = [
    ("eigenvalues", ["eigenvalues"]),
    ("potential_well", ["potential_well"]),
    ("forces", ["forces"]),
    ("bilinear", ["bilinear"]),
    ("cost", ["cost"]),
    ("rates", ["adversarialness", "spectra"]),
    ("regime", ["regime"]),
    ("strong_coupling", ["strong_coupling"]),
    ("modes", ["modes", "samples"]),
    ("robustness", ["robustness"]),
]


def run(folder: Path, *command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("script", "pictures"), TALKS)
def test_the_figures_are_drawn(script: str, pictures: list[str], tmp_path: Path) -> None:
    run(tmp_path, TALK / f"{script}.py", "--fast")
    for name in pictures:
        assert (tmp_path / "runs" / "talk" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for film in (tmp_path / "runs" / "talk").glob("*.gif"):
        assert film.read_bytes().startswith(b"GIF8")
        with Image.open(film) as frames:
            assert frames.n_frames > 1
    assert (tmp_path / "runs" / "talk" / "forces.gif").exists() == (script == "forces")


@pytest.mark.slow
def test_the_table_has_a_row_for_every_rule_and_the_law_is_what_the_search_finds(tmp_path: Path) -> None:
    rows = [line.split(" | ") for line in run(tmp_path, TALK / "rates.py", "--table", "--fast").splitlines() if line]
    per_step = {row[0].strip("| "): row[1:] for row in rows[: len(rows) // 2]}
    assert len(per_step) == 2 + 13 + 1
    found = [float(cell.strip("| ")) for cell in per_step["**alternating LEAD** (4)"]]
    law = [float(cell.strip("| ")) for cell in per_step["the law for alternating LEAD"]]
    assert found == pytest.approx(law, abs=0.03)  # from a coarse search
    assert all(f >= r - 1e-4 for f, r in zip(found, law, strict=True))  # and the law is not beaten

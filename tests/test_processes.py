"""What tests start as forks is what a new interpreter would be."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest

SCRIPT = """
import os, sys
print(__name__, sys.argv, os.getcwd(), os.environ.get("GIVEN"), [m for m in ("tiny", "pytest") if m in sys.modules])
print(sys.path[0], file=sys.stderr)
if "fails" in sys.argv:
    raise KeyError("why")
sys.exit({"three": 3, "words": "in words"}.get(sys.argv[-1]))
"""


@pytest.mark.parametrize("how", ["script", "-m", "-c"])
@pytest.mark.parametrize("end", ["well", "three", "words", "fails"])
def test_a_fork_has_the_output_and_the_status_of_a_new_interpreter(how: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SCRIPT)
    command = {"script": [str(tmp_path / "shown.py")], "-m": ["-m", "shown"], "-c": ["-c", SCRIPT]}[how] + [end]
    settings = {"cwd": tmp_path, "env": {"GIVEN": "here"}, "timeout": 60}
    new = subprocess.run([sys.executable, *command], capture_output=True, text=True, **settings)
    fork = processes.run(command, **settings)
    assert (fork.returncode, fork.stdout) == (new.returncode, new.stdout)
    said, expected = fork.stderr.splitlines(), new.stderr.splitlines()
    # between them a traceback has the fork's frames
    assert (said[0], said[-1]) == (expected[0], expected[-1])


def test_a_fork_does_not_see_the_tests_own_modules() -> None:
    assert "No module named 'tiny'" in processes.run(["-c", "import tiny"]).stderr


def test_a_fork_is_ended_by_signals_and_by_its_time() -> None:
    process = processes.Process(["-c", "import time; time.sleep(60)"], start_new_session=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run(["-c", "import time; time.sleep(60)"], timeout=0.1)


def test_a_rank_that_fails_ends_the_others_and_is_heard() -> None:
    script = "import os, sys, time; time.sleep(60) if os.environ['RANK'] == '0' else sys.exit('this is rank 1')"
    with pytest.raises(AssertionError, match="this is rank 1"):
        processes.run_ranks(2, ["-c", script], timeout=50)
    with pytest.raises(AssertionError, match="not done after 0.1 s"):
        processes.run_ranks(2, ["-c", "import time; time.sleep(60)"], timeout=0.1)


@pytest.mark.parametrize("end", ["well", "three", "words", "fails"])
def test_what_a_fork_starts_has_its_output_and_its_status(end: str, tmp_path: Path) -> None:
    """And is its child."""
    own = "import os, sys; print(os.getppid(), file=sys.stderr)" + SCRIPT
    start = "import os, subprocess, sys; done = subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True); "
    start += "parent, *said = done.stderr.split(); "
    start += "print(done.stdout, done.returncode, said[-1:], int(parent) == os.getpid())"
    command = ["-c", start, "-c", own, end]
    new = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)
    fork = processes.run(command, cwd=tmp_path, timeout=60)
    assert (fork.returncode, fork.stderr) == (new.returncode, new.stderr)
    assert fork.stdout == new.stdout
    assert "True" in fork.stdout

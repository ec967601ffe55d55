"""The machine of a lease, and the tests that need its device."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import torchmetrics
import torchvision
from gpu_parts import Bench

import lightning_lead

__all__ = ["describe", "run_tests"]

ROOT = Path(__file__).parents[2]
WANTED = ("pytest", "sklearn", "torch_fidelity", "jsonargparse", "pyautoattack", "triton")
LINES = 12  # of a failure that are kept
DRY = ("test_cuda.py", "test_precision.py")


def describe(bench: Bench) -> str:
    """Record device, driver, versions, and which optional packages are missing."""
    cuda = bench.device == "cuda"
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores, no device: a dry run",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "torchvision": torchvision.__version__,
        "lightning": pytorch_lightning.__version__,  # type: ignore[attr-defined]
        "torchmetrics": torchmetrics.__version__,
        "lightning_lead": lightning_lead.__version__,
        "cpu_cores": os.cpu_count(),
        "missing": [name for name in WANTED if importlib.util.find_spec(name) is None],
    }
    if cuda:
        found |= {"capability": torch.cuda.get_device_capability(), "bytes": torch.cuda.mem_get_info()[1]}
    if cuda and shutil.which("nvidia-smi"):
        asked = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.limit"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        found["nvidia_smi"] = {asked: said.stdout.strip() or said.stderr.strip()[:200]}
    bench.tell(found)
    return "done"


class Recorder:
    """Tells of every test as it ends, so that a run that is cut off has told what it knows."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": {}, "slowest": {}}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test by its call, or by what has kept it from that."""
        if report.when == "call" or not report.passed:
            self.found[report.outcome] = self.found.get(report.outcome, 0) + 1
            self.found["slowest"][report.nodeid] = round(report.duration, 2)
            if report.failed:
                said = [line for line in report.longreprtext.splitlines() if line.startswith(("E ", "E\t"))]
                tail = report.longreprtext.splitlines()[-1:]
                self.found["failures"][report.nodeid] = [line[:240] for line in [*said[:LINES], *tail]]
            self._tell()

    def pytest_collectreport(self, report: Any) -> None:
        """Keep what a file that cannot be imported says."""
        if report.failed:
            self.found["failed"] += 1
            self.found["failures"][report.nodeid] = report.longreprtext.splitlines()[-LINES:]
            self._tell()

    def _tell(self) -> None:
        slowest = sorted(self.found["slowest"].items(), key=lambda item: -item[1])[:5]
        self._bench.tell(self.found | {"slowest": dict(slowest)})


def run_tests(bench: Bench) -> str:
    """Run `pytest -m gpu tests/gpu` in this process."""
    try:
        import pytest
    except ModuleNotFoundError:
        bench.tell({"missing": "pytest is not installed on this machine, so no test was run"})
        return "refused"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a plugin of the machine that warns would fail every test
    recorder = Recorder(bench)
    files = [ROOT / "tests" / "gpu" / name for name in (DRY if bench.dry else ("",))]
    os.chdir(ROOT)
    arguments = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "setup.cfg")]
    status = pytest.main([*arguments, *map(str, files)], plugins=[recorder])
    bench.tell(recorder.found | {"status": int(status)})
    return "done"

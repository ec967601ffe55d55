"""Run what has not been run, one process per run; a run that fails takes no other with it.

A run's folder holds `started.json`, and at its end `result.json` or `failure.json`, each with the run's fingerprint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead._files import write_json
from lightning_lead.compare._plan import Run
from lightning_lead.compare._processes import BUSY, GPUs, Processes

__all__ = ["known_result", "mark_started", "run_all"]

Result = dict[str, Any]


def run_all(
    runs: Sequence[Run],
    *,
    jobs: int = 1,
    retry: bool = False,
    final_samples: int | None = None,
    gpus: Sequence[str] = (),
    pinned: Container[str] = (),
    cards: Sequence[str] | None = None,
) -> list[Result]:
    """Return the result of every run, in order; {"failed": reason} for one that has none.

    Args:
        runs: what to run. One with a result, or a failure, of the same fingerprint is not run again.
        jobs: processes at a time, ≥ 1.
        retry: run failed ones again.
        final_samples: of one more score of each run's last checkpoint, or None; of finished runs as well.
        gpus: names of this machine's GPUs, as CUDA_VISIBLE_DEVICES takes them.
        pinned: labels of the entries whose runs are given one of them each.
        cards: the old name of `gpus`.

    Raises:
        ConfigurationError: a folder holds a run with other settings.

    Example:
        >>> run_all([])
        []
    """
    if cards is not None:
        warnings.warn("the argument cards of run_all is called gpus", FutureWarning, stacklevel=2)
        gpus = cards
    known = {run.folder: known_result(run) for run in runs}
    processes, free = Processes(), GPUs(gpus, jobs=jobs)

    def one(run: Run) -> Result:
        found = known[run.folder]
        if found is not None and not (retry and "failed" in found) and _is_complete(found, final_samples):
            return found
        with free.one(wanted=run.entry.label in pinned) as gpu:
            return _run(run, processes, gpu, final_samples)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            return list(pool.map(one, runs))
        except BaseException:
            processes.end()
            raise


def known_result(run: Run) -> Result | None:
    """Return the result in the run's folder, {"failed": reason}, or None if it is still to be run.

    Raises ConfigurationError if the folder holds a run with another fingerprint.
    """
    for name in ("result.json", "failure.json", "started.json"):
        path = run.folder / name
        if not path.is_file():
            continue
        found: Result = json.loads(path.read_text(encoding="utf-8"))
        if found["fingerprint"] != run.fingerprint:
            raise ConfigurationError(
                f"Cannot go on in {run.folder} because it holds a run of another recipe or other settings; choose "
                "another --output, or delete the folder"
            )
        return None if name == "started.json" else found
    return None


def mark_started(run: Run) -> None:
    """Make the run's folder, and write the run's fingerprint and arguments there."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "failure.json").unlink(missing_ok=True)
    write_json(run.folder / "started.json", {"fingerprint": run.fingerprint, "arguments": list(run.arguments)})


def _is_complete(found: Result, final_samples: int | None) -> bool:
    """Return False for a result without the last score that is asked for."""
    if final_samples is None or "failed" in found:
        return True
    last: Result = found.get("final") or {}
    return bool(last) and last["protocol"]["num_samples"] == final_samples


def _run(run: Run, processes: Processes, gpu: Mapping[str, str], final_samples: int | None) -> Result:
    mark_started(run)
    where = "".join(f" on GPU {name}" for name in gpu.values())
    print(f"{run.entry.label}, seed {run.seed}{where} ...", flush=True)
    command = [sys.executable, "-m", "lightning_lead.compare._start", str(run.folder), run.fingerprint, *run.arguments]
    command += [] if final_samples is None else [f"--final_samples={final_samples}"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **gpu}
    log = run.folder / "log.txt"
    with log.open("a", encoding="utf-8") as file:
        code = processes.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if code is None:
        return {"fingerprint": run.fingerprint, "failed": "stopped"}
    if code == 0:
        result: Result = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
        return result
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    reason = lines[-1] if code > 0 and lines else f"ended by signal {-code}"
    failure = {"fingerprint": run.fingerprint, "failed": reason}
    if code > 0 and code != BUSY:  # a run that was killed goes on from its checkpoint the next time
        write_json(run.folder / "failure.json", failure)
    print(f"{run.entry.label}, seed {run.seed} failed: {reason}", flush=True)
    return failure

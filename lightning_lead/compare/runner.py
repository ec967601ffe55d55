"""Run what has not been run, one process per run, and report on all of it; a run that fails takes no other with it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead.compare.plan import Run, plan_runs, read_entries
from lightning_lead.compare.report import write_report
from lightning_lead.compare.worker import write_json

__all__ = ["compare", "run_all"]

Result = dict[str, Any]


def run_all(runs: Sequence[Run], *, jobs: int = 1, retry: bool = False) -> list[Result]:
    """The result of every run, in order; {"failed": reason} for one that has none.

    Args:
        runs: what to run. One with a result, or a failure, of the same fingerprint is not run again.
        jobs: processes at a time, ≥ 1.
        retry: run failed ones again.

    Raises:
        ConfigurationError: a folder holds a run with other settings.

    Example:
        >>> run_all([])
        []
    """
    known = {run.folder: _known(run) for run in runs}

    def one(run: Run) -> Result:
        found = known[run.folder]
        if found is not None and not (retry and "failed" in found):
            return found
        return _run(run)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(one, runs))


def _known(run: Run) -> Result | None:
    """What the folder says of this run; a mark is left there before it begins."""
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


def _run(run: Run) -> Result:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "failure.json").unlink(missing_ok=True)
    write_json(run.folder / "started.json", {"fingerprint": run.fingerprint, "arguments": list(run.arguments)})
    print(f"{run.entry.label}, seed {run.seed} ...", flush=True)
    command = [sys.executable, "-m", "lightning_lead.compare.worker", str(run.folder), run.fingerprint, *run.arguments]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code == 0:
        result: Result = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
        return result
    lines = [line for line in (run.folder / "log.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    reason = lines[-1] if code > 0 and lines else f"ended by signal {-code}"
    failure = {"fingerprint": run.fingerprint, "failed": reason}
    if code > 0:  # a run that was killed goes on from its checkpoint the next time
        write_json(run.folder / "failure.json", failure)
    print(f"{run.entry.label}, seed {run.seed} failed: {reason}", flush=True)
    return failure


def compare(arguments: Sequence[str]) -> int:
    """The command `lightning-lead compare`.

    Args:
        arguments: of the command line, after the word compare.

    Returns:
        0, or 1 if a run failed.

    Raises:
        ConfigurationError: an unknown game, no seeds, no recipe, or a folder with other runs.

    Example:
        >>> import contextlib, io
        >>> with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        ...     compare(["--help"])
        >>> "--games" in out.getvalue()
        True
    """
    parser = argparse.ArgumentParser(
        prog="lightning-lead compare",
        description="Train one recipe by several game optimizers and seeds; a table and a figure. Stopped, it goes on.",
        epilog="Any other argument goes to every run, as in --trainer.max_steps=500 or --model.generator_lr=0.001.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, required=True, help="the recipe, as fit takes it")
    parser.add_argument("--games", nargs="+", default=[], help="names, or labels of the games file; default: all")
    parser.add_argument(
        "--games-file", type=Path, help="YAML: label -> {game: NAME(...), overrides: {argument: value}}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="default: %(default)s")
    parser.add_argument("--every", type=int, help="game steps between scores; default: the recipe's")
    parser.add_argument("--score", help="which of the recipe's scores the table shows first; default: the first one")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--retry", action="store_true", help="run again what has failed before")
    chosen, extra = parser.parse_known_args(arguments)
    if strange := [argument for argument in extra if not argument.startswith("--")]:
        parser.error(f"write --argument=value for what goes to every run (got {' '.join(strange)})")
    if chosen.jobs < 1 or (chosen.every is not None and chosen.every < 1):
        parser.error(f"--jobs and --every must be ≥ 1 (got {chosen.jobs} and {chosen.every})")
    if chosen.every is not None:
        extra = [*extra, f"--every={chosen.every}"]
    entries = read_entries(chosen.games, chosen.games_file)
    runs = plan_runs(entries, chosen.config, chosen.seeds, chosen.output, extra)
    results = run_all(runs, jobs=chosen.jobs, retry=chosen.retry)
    print(write_report(runs, results, chosen.output, score=chosen.score))
    return int(any("failed" in result for result in results))

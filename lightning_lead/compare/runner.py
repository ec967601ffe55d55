"""Run what has not been run, one process per run, and report on all of it; a run that fails takes no other with it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead.compare.arguments import check_arguments
from lightning_lead.compare.plan import Run, overruled, plan_runs, read_entries
from lightning_lead.compare.processes import Cards, Processes, uses_one_card, visible_cards
from lightning_lead.compare.report import write_report
from lightning_lead.compare.worker import write_json

__all__ = ["compare", "known_result", "mark_started", "run_all"]

Result = dict[str, Any]


def run_all(
    runs: Sequence[Run],
    *,
    jobs: int = 1,
    retry: bool = False,
    final_samples: int | None = None,
    cards: Sequence[str] = (),
    pinned: Container[str] = (),
) -> list[Result]:
    """The result of every run, in order; {"failed": reason} for one that has none.

    Args:
        runs: what to run. One with a result, or a failure, of the same fingerprint is not run again.
        jobs: processes at a time, ≥ 1.
        retry: run failed ones again.
        final_samples: of one more score of each run's last checkpoint, or None; of finished runs as well.
        cards: names of this machine's GPUs; see `processes.Cards`.
        pinned: labels of the entries whose runs are given one of them each.

    Raises:
        ConfigurationError: a folder holds a run with other settings.

    Example:
        >>> run_all([])
        []
    """
    known = {run.folder: known_result(run) for run in runs}
    processes, handed_out = Processes(), Cards(cards, jobs=jobs)

    def one(run: Run) -> Result:
        found = known[run.folder]
        if found is not None and not (retry and "failed" in found) and _scored(found, final_samples):
            return found
        with handed_out.one(wanted=run.entry.label in pinned) as card:
            return _run(run, processes, card, final_samples)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            return list(pool.map(one, runs))
        except BaseException:
            processes.end()
            raise


def known_result(run: Run) -> Result | None:
    """What the folder says of this run: its result, {"failed": reason}, or None if it is still to be run.

    Args:
        run: of the plan.

    Raises:
        ConfigurationError: the folder holds a run with other settings.

    Example:
        >>> from lightning_lead.compare import Entry
        >>> known_result(Run(Entry("LEAD", "LEAD", ()), 0, Path("nowhere"), (), "")) is None
        True
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
    """Make the run's folder, and leave there whose it is.

    Args:
        run: of the plan.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "failure.json").unlink(missing_ok=True)
    write_json(run.folder / "started.json", {"fingerprint": run.fingerprint, "arguments": list(run.arguments)})


def _scored(found: Result, final_samples: int | None) -> bool:
    """Whether there is nothing left to do for a known result."""
    if final_samples is None or "failed" in found:
        return True
    last: Result = found.get("final") or {}
    return bool(last) and last["protocol"]["num_samples"] == final_samples


def _run(run: Run, processes: Processes, card: Mapping[str, str], final_samples: int | None) -> Result:
    mark_started(run)
    where = "".join(f" on card {name}" for name in card.values())
    print(f"{run.entry.label}, seed {run.seed}{where} ...", flush=True)
    command = [sys.executable, "-m", "lightning_lead.compare.worker", str(run.folder), run.fingerprint, *run.arguments]
    command += [] if final_samples is None else [f"--final_samples={final_samples}"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **card}
    with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
        code = processes.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if code is None:
        return {"fingerprint": run.fingerprint, "failed": "stopped"}
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


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Inside, a request to terminate is what Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def compare(arguments: Sequence[str]) -> int:
    """The command `lightning-lead compare`.

    Args:
        arguments: of the command line, after the word compare.

    Returns:
        0, or 1 if a run failed, or 130 if it was stopped.

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
    parser.add_argument("--output", type=Path, help="default: runs/compare/NAME-OF-THE-RECIPE")
    parser.add_argument("--max_steps", "--max-steps", type=int, help="the same as --trainer.max_steps=N")
    parser.add_argument("--every", type=int, help="game steps between scores; default: the recipe's")
    parser.add_argument(
        "--final_samples",
        "--final-samples",
        type=int,
        help="of one more score of each run's last checkpoint",
    )
    parser.add_argument("--score", help="which of the recipe's scores the table shows first; default: the first one")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--retry", action="store_true", help="run again what has failed before")
    chosen, extra = parser.parse_known_args(arguments)
    if strange := [argument for argument in extra if not argument.startswith("--")]:
        parser.error(f"write --argument=value for what goes to every run (got {' '.join(strange)})")
    if chosen.max_steps is not None:
        extra = [*extra, f"--trainer.max_steps={chosen.max_steps}"]
    counts = {"--jobs": chosen.jobs, "--every": chosen.every, "--final_samples": chosen.final_samples}
    if wrong := [f"{name} {count}" for name, count in counts.items() if count is not None and count < 1]:
        parser.error(f"counts must be ≥ 1 (got {', '.join(wrong)})")
    if chosen.every is not None:
        extra = [*extra, f"--every={chosen.every}"]
    entries = read_entries(chosen.games, chosen.games_file)
    output = chosen.output if chosen.output is not None else Path("runs/compare") / chosen.config.stem
    runs = plan_runs(entries, chosen.config, chosen.seeds, output, extra)
    configurations = check_arguments(runs)
    for entry in entries:
        for given, stands in overruled(entry, extra):
            print(f"{entry.label}: {stands} of its entry stands, and not {given} of the command line", flush=True)
    pinned = {label for label, found in configurations.items() if uses_one_card(found.get("trainer", {}))}
    cards = visible_cards(os.environ) if pinned else []
    try:
        with _stoppable():
            how = {"jobs": chosen.jobs, "retry": chosen.retry, "final_samples": chosen.final_samples}
            results = run_all(runs, **how, cards=cards, pinned=pinned)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", flush=True)
        return 130
    print(write_report(runs, results, output, score=chosen.score))
    return int(any("failed" in result for result in results))

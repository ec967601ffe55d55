"""The command `lightning-lead compare`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["compare"]


def compare(arguments: Sequence[str]) -> int:
    """Run the command `lightning-lead compare`.

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
    parser = _parser()
    chosen, extra = parser.parse_known_args(arguments)
    if strange := [argument for argument in extra if not argument.startswith("--")]:
        parser.error(f"write --argument=value for what goes to every run (got {' '.join(strange)})")
    counts = {"--jobs": chosen.jobs, "--every": chosen.every, "--final_samples": chosen.final_samples}
    if wrong := [f"{name} {count}" for name, count in counts.items() if count is not None and count < 1]:
        parser.error(f"counts must be ≥ 1 (got {', '.join(wrong)})")
    if chosen.max_steps is not None:
        extra = [*extra, f"--trainer.max_steps={chosen.max_steps}"]
    if chosen.every is not None:
        extra = [*extra, f"--every={chosen.every}"]

    # not above: help would import torch
    from lightning_lead._files import check_writable, held
    from lightning_lead.compare._plan import check_score, configurations, overruled, plan_runs, read_entries
    from lightning_lead.compare._processes import terminable, uses_one_gpu, visible_gpus
    from lightning_lead.compare._report import write_report
    from lightning_lead.compare._runner import run_all

    entries = read_entries(chosen.games, chosen.games_file)
    output = chosen.output if chosen.output is not None else Path("runs/compare") / chosen.config.stem
    runs = plan_runs(entries, chosen.config, chosen.seeds, output, extra)
    trainers = {label: found.get("trainer", {}) for label, found in configurations(runs).items()}
    for entry in entries:
        for given, stands in overruled(entry, extra):
            print(f"{entry.label}: {stands} of its entry stands, and not {given} of the command line", flush=True)
    pinned = {label for label, trainer in trainers.items() if uses_one_gpu(trainer)}
    gpus = visible_gpus(os.environ) if pinned else []
    if chosen.score is not None:
        check_score(chosen.score, runs[0])
    settings = {"jobs": chosen.jobs, "retry": chosen.retry, "final_samples": chosen.final_samples}
    with held(output, purpose="compare in"):
        check_writable(output / "table.md")
        try:
            with terminable():
                results = run_all(runs, **settings, gpus=gpus, pinned=pinned)
        except KeyboardInterrupt:
            print("Stopped. The same command goes on from here.", flush=True)
            return 130
        print(write_report(runs, results, output, score=chosen.score))
    return int(any("failed" in result for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-lead compare",
        description="Train one recipe by several game optimizers and seeds; a table and a figure. Stopped, it goes on.",
        epilog="Any other argument goes to every run, as in --trainer.max_steps=500 or --model.generator_lr=0.001.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, help="the recipe, as fit takes it")
    add("--games", nargs="+", default=[], help="names, or labels of the games file; default: all")
    add("--games-file", type=Path, help="YAML: label -> {game: NAME(...), overrides: {argument: value}}")
    add("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    add("--output", type=Path, help="default: runs/compare/NAME-OF-THE-RECIPE")
    add("--max_steps", "--max-steps", type=int, help="the same as --trainer.max_steps=N")
    add("--every", type=int, help="game steps between scores; default: the recipe's")
    add("--final_samples", "--final-samples", type=int, help="of one more score of each run's last checkpoint")
    add("--score", help="which of the recipe's scores the table shows first; default: the first one")
    add("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    add("--retry", action="store_true", help="run again what has failed before")
    return parser

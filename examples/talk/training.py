"""Runs of a recipe for a figure: as `lightning-lead compare` makes and keeps them, several in each process.

Importing torch takes as long as one of these runs. A process per run would pay for it each time; these are forks of one
that has imported it, where the system can do that.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import threading
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from lightning_lead._files import write_json
from lightning_lead.compare import Run, run_all
from lightning_lead.compare._runner import known_result, mark_started
from lightning_lead.compare.worker import run as play

RECIPES = Path(__file__).parents[1] / "recipes"


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """--jobs, a run per core by default."""
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: %(default)s)")


def results_of(runs: Sequence[Run], *, jobs: int) -> list[dict[str, Any]]:
    """The result of every run, in order; what is in their folders already is not run again."""
    waiting = [run for run in runs if known_result(run) is None]
    if waiting:
        with ProcessPoolExecutor(min(jobs, len(waiting)), _processes(), initializer=_begin) as pool:
            for number, run in enumerate(pool.map(_play, waiting), start=1):
                print(f"{number} of {len(waiting)}: {run}", flush=True)
    return run_all(runs)  # reads them


def _processes() -> Any:
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(["lightning_lead.compare.worker", "matplotlib.pyplot"])
    return context


def _begin() -> None:
    quiet()
    threading.Thread(target=_end_with_the_figure, daemon=True).start()


def _end_with_the_figure() -> None:
    """End this process, in the middle of a run or not, when the one that draws is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _play(run: Run) -> str:
    mark_started(run)
    with (run.folder / "log.txt").open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            play(run.folder, run.fingerprint, list(run.arguments), checkpoints=1)
        except Exception as error:  # one run that fails does not take the figure with it
            traceback.print_exc()
            write_json(run.folder / "failure.json", {"fingerprint": run.fingerprint, "failed": str(error)})
    return f"{run.entry.label}, seed {run.seed}"


def quiet() -> None:
    """Networks this small gain nothing from threads, and no advice about them is needed."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)


def silent_trainer(steps: int, *callbacks: Callback) -> Trainer:
    """One on a single CPU that logs, saves and validates nothing."""
    return Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        callbacks=[*callbacks],
        limit_val_batches=0,
        log_every_n_steps=10 * steps,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        logger=False,
    )

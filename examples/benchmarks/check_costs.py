"""The cost of the checks of every game step: its time with them, by that without, on two pairs of networks.

    python examples/benchmarks/check_costs.py [--steps N] [--games NAME ...] [--networks NAME ...] [--batch N]

Steps with and without the checks take turns in one run on one thread. Without them nothing looks at turns, at losses,
at what a shortcut assumes, at hooks, schedulers and arguments. The ratio is that of the medians; the last column is an
audit's part in a step, one in `audit_every` = 1000.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from workloads import workloads

from lightning_lead import LeadGANModule
from lightning_lead.training import LeadMixin
from lightning_lead.training._hook_watch import HookWatch
from lightning_lead.training._schedulers import Schedulers

GAMES = ("LEAD", "LEAD(form='own')", "LEAD(cross='extrapolated')", "AlternatingGDA")
WARM_UP = 6  # steps before the clock starts


def nothing(*_: Any, **__: Any) -> None:
    """Check nothing."""


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Switch every check of a game step off."""
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            for check in ("check_turns", "check_loss", "check_calls", "check_arguments", "check_clip"):
                if name.startswith("lightning_lead.") and check in vars(module):
                    stack.enter_context(mock.patch.object(module, check, nothing))
        plain = lambda self, batch, wanted: self.wanted_losses(batch, wanted)  # noqa: E731
        stack.enter_context(mock.patch.object(LeadMixin, "_checked_losses", plain))
        stack.enter_context(mock.patch.object(Schedulers, "check", nothing))
        stack.enter_context(mock.patch.object(HookWatch, "_require", nothing))
        yield


class Audited(LeadGANModule):
    """A GAN that tells how long its audits take."""

    def __init__(self, *networks: Any, **settings: Any) -> None:
        super().__init__(*networks, **settings)
        self.audits: list[float] = []

    def _find_structure(self, *arguments: Any) -> Any:
        begun = time.perf_counter()
        found = super()._find_structure(*arguments)
        self.audits.append(1e3 * (time.perf_counter() - begun))
        return found


class TakingTurns(pl.Callback):
    """Milliseconds of steps with and without checks, which take turns."""

    def __init__(self) -> None:
        self.milliseconds: dict[bool, list[float]] = {True: [], False: []}
        self._off = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock, with the checks switched off on every other step."""
        if trainer.global_step % 2:
            self._off.enter_context(unchecked())
        self._begun = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Read the clock, and switch them on."""
        elapsed = 1e3 * (time.perf_counter() - self._begun)
        self._off.close()
        if trainer.global_step > WARM_UP:
            self.milliseconds[trainer.global_step % 2 == 1].append(elapsed)  # the step counter is one further


def measured(networks: Callable[[], Any], batch: torch.Tensor, game: str, steps: int) -> tuple[float, float, float]:
    """Return milliseconds per step with checks, and without, and per audit."""
    torch.manual_seed(0)
    module = Audited(*networks(), game=game, audit_every=51)
    turns = TakingTurns()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"accelerator": "cpu", "enable_checkpointing": False, "log_every_n_steps": 10**6}
    trainer = pl.Trainer(max_steps=steps, callbacks=[turns], **settings, **quiet)
    trainer.fit(module, DataLoader(TensorDataset(batch.repeat(steps, *[1] * (batch.dim() - 1))), len(batch)))
    with_checks, without = (statistics.median(turns.milliseconds[on]) for on in (True, False))
    return with_checks, without, statistics.median(module.audits[1:] or [0.0])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--games", nargs="+", default=GAMES)
    parser.add_argument("--batch", type=int, default=64, help="images of a batch of the SNGAN")
    parser.add_argument("--networks", nargs="+", default=["digits", "sngan1"])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print("| networks | game | ms without checks | with | ratio | audits |\n|---|---|---|---|---|---|")
    every = workloads(arguments.batch, on_gpu=False)
    for name in arguments.networks:
        workload = every[name]
        for game in arguments.games:
            batch = workload.batch(torch.device("cpu"))
            on, off, audit = measured(partial(workload.built, torch.device("cpu")), batch, game, arguments.steps)
            share = audit / 1000 / off
            print(f"| {name} | `{game}` | {off:.2f} | {on:.2f} | {on / off:.3f} | {share:.3%} |", flush=True)


if __name__ == "__main__":
    main()

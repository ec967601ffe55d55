"""What a game step costs in the ported loops: CPU time of plain, extrapolated and exact play, by that of the loop.

    python examples/benchmarks/port_costs.py [--ports NAME ...] [--rounds N] [--steps N]

Every port trains on its own kind of batches, of 64 images or 16 sounds, on one thread, by its plain loop and through a
Trainer; methods take turns in a random order. A ratio is the median over rounds. Where a port refuses exact play, or
players meet in it through a detach, the table says so.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import random
import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import ConfigurationError, DifferentiationError

PORTS = Path(__file__).parents[1] / "ports"
GAMES = {"plain": "GradientPlay", "extrapolated": "LEAD(cross='extrapolated')", "exact": "LEAD"}
WARM_UP = 4  # game steps before the clock starts


def module_of(port: ModuleType, game: str) -> Any:
    """The port's module, its adversarial part begun."""
    (kind,) = (
        v for v in vars(port).values() if getattr(v, "__module__", "") == port.__name__ and hasattr(v, "players")
    )
    torch.manual_seed(0)
    module = kind(game)
    if hasattr(module, "start"):
        module.start = 0
    return module


def data_of(port: ModuleType, steps: int) -> DataLoader[Any]:
    """So many batches in memory."""
    if hasattr(port, "sounds"):
        return DataLoader(TensorDataset(port.sounds(16 * steps)), 16)
    images = torch.rand(64 * steps, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = [torch.arange(len(images)) % 10] if hasattr(port, "CLASSES") else []
    return DataLoader(TensorDataset(images, *labels), 64)


class Timed(pl.Callback):
    """CPU seconds of the game steps after the warm-up."""

    def __init__(self) -> None:
        self.begun, self.seconds = 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock once."""
        if trainer.global_step == WARM_UP:
            self.begun = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """Read it after every step."""
        self.seconds = time.process_time() - self.begun


def loop_seconds(port: ModuleType, steps: int) -> float:
    """CPU seconds per step of the plain loop."""
    begun: list[float] = []

    def watched(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
        for k, batch in enumerate(batches):
            if k == WARM_UP:
                begun.append(time.process_time())
            yield batch

    port.plain_loop(module_of(port, "GradientPlay"), watched(data_of(port, steps + WARM_UP)))
    return (time.process_time() - begun[0]) / steps


def game_seconds(port: ModuleType, game: str, steps: int) -> float | str:
    """CPU seconds per game step through a Trainer, or why there is none."""
    timed, module = Timed(), module_of(port, game)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_steps=steps + WARM_UP, enable_model_summary=False, callbacks=[timed], **quiet)  # type: ignore[arg-type]
    try:
        trainer.fit(module, data_of(port, steps + WARM_UP))
    except (ConfigurationError, DifferentiationError) as error:
        return f"{port.__name__} refuses {game}: {error}"
    return timed.seconds / steps


def row(name: str, rounds: int, steps: int) -> tuple[str, list[str]]:
    """Measure one port, and return its line of the table, and what it has refused."""
    port = importlib.import_module(name)
    loop: list[float] = []
    taken: dict[str, list[Any]] = {label: [] for label in GAMES}
    for _ in range(rounds):
        for label in random.sample(["loop", *GAMES], len(GAMES) + 1):
            if label == "loop":
                loop.append(loop_seconds(port, steps))
            elif not (taken[label] and isinstance(taken[label][0], str)):
                taken[label].append(game_seconds(port, GAMES[label], steps))
    refused = [seconds[0] for seconds in taken.values() if isinstance(seconds[0], str)]
    cells = [
        "refused" if seconds[0] in refused else f"{statistics.median(map(float.__truediv__, seconds, loop)):.2f}"
        for seconds in taken.values()
    ]
    return " | ".join([f"| {name}", f"{1000 * statistics.median(loop):.0f} ms", *cells]) + " |", refused


if __name__ == "__main__":
    names = sorted(file.stem for file in PORTS.glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ports", nargs="+", choices=names, default=names, help="default: all of them")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each method (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="game steps of a turn (default: %(default)s)")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    sys.path.insert(0, str(PORTS))
    print(" | ".join(["| port", "loop", *GAMES]) + " |")
    print("|---" * (2 + len(GAMES)) + "|")
    reasons: list[str] = []
    for name in chosen.ports:
        line, refused = row(name, chosen.rounds, chosen.steps)
        print(line, flush=True)
        reasons += refused
    print("", *reasons, sep="\n")

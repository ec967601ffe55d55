"""Where the time of a game step goes: milliseconds per phase, by method, and what each phase adds to plain Adam's.

python examples/benchmarks/phases.py [--workload sngan1] [--batch-size N] [--steps 5]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from meters import Traffic
from methods import METHODS
from workloads import workloads

from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.gan import GANProblem

SHOWN = ["Adam", "LEAD, extrapolated", "LEAD, exact", "LEAD, difference", "LEAD, difference, shared latents"]
WARM_UP = 3


class Clock:
    """Exclusive time per phase: a phase that begins inside of another one stops its clock."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device, self._turn = device, ""
        self._open: list[list[Any]] = []  # label, and when its clock began or went on

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def phase(self, label: str) -> Iterator[None]:
        """Count what happens inside under a label."""
        now = self._now()
        if self._open:
            self.seconds[self._open[-1][0]] += now - self._open[-1][1]
        self._open.append([label, now])
        try:
            yield
        finally:
            now = self._now()
            label, begin = self._open.pop()
            self.seconds[label] += now - begin
            if self._open:
                self._open[-1][1] = now

    def watch(self, owner: Any, name: str, label: str) -> Callable[[], None]:
        """Count every call of a function under a label, in whoever's turn it is."""
        original = getattr(owner, name)

        def counted(*arguments: Any, **settings: Any) -> Any:
            with self.phase(f"{self._turn}{label}"):
                return original(*arguments, **settings)

        setattr(owner, name, counted)
        return lambda: setattr(owner, name, original)

    def watch_turns(self) -> Callable[[], None]:
        """Name phases by the player whose turn it is."""
        original = GameStrategy.play_turn

        def play_turn(game: Any, oracle: Any, players: Any, parameters: Any) -> Any:
            self._turn = f"{players[0]}'s turn: "
            with self.phase(f"{self._turn}the rest"):
                seen = original(game, oracle, players, parameters)
            self._turn = ""
            return seen

        GameStrategy.play_turn = play_turn  # type: ignore[method-assign,assignment]
        return lambda: setattr(GameStrategy, "play_turn", original)


class Over(Exception):
    """Enough steps."""


def measure(method: str, workload: Any, device: torch.device, steps: int) -> dict[str, float]:
    """Median milliseconds of each phase."""
    clock, rounds = Clock(device), []

    def meter(step: Callable[[], object]) -> None:
        clock.seconds.clear()
        with clock.phase("outside of turns"):
            step()
        rounds.append(dict(clock.seconds))
        if len(rounds) == WARM_UP + steps:
            raise Over

    undo = [
        clock.watch(GANProblem, "fakes", "fakes"),
        clock.watch(GANProblem, "fake_logits", "discriminator on fakes"),
        clock.watch(GANProblem, "real_logits", "discriminator on reals"),
        clock.watch(torch.autograd, "grad", "reverse passes"),
        clock.watch(torch.optim.Adam, "step", "optimizer"),
        clock.watch_turns(),
    ]
    try:
        METHODS[method](workload, device, meter, Traffic())  # type: ignore[arg-type]
    except Over:
        pass
    finally:
        for restore in undo:
            restore()
    labels = {label for found in rounds for label in found}
    return {
        label: 1000 * statistics.median(found.get(label, 0.0) for found in rounds[WARM_UP:]) for label in sorted(labels)
    }


def main() -> None:
    """Print a Markdown table."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--workload", default="sngan1")
    parser.add_argument("--batch-size", type=int, help="of the residual networks (default: 8 on a CPU, else 64)")
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    device = torch.device(chosen.device)
    batch_size = chosen.batch_size or (64 if device.type == "cuda" else 8)
    workload = workloads(batch_size, on_gpu=device.type == "cuda")[chosen.workload]
    columns = {method: measure(method, workload, device, chosen.steps) for method in SHOWN}
    print(f"{workload.title}, ms per game step\n\n| phase | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for label in sorted({label for column in columns.values() for label in column}):
        if max(column.get(label, 0.0) for column in columns.values()) < 0.5:
            continue  # what only the first step does
        print(f"| {label} | " + " | ".join(f"{column.get(label, 0.0):.0f}" for column in columns.values()) + " |")
    print("| sum | " + " | ".join(f"{sum(column.values()):.0f}" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()

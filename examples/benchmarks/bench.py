"""What a game step costs by each method: FLOPs, wall time, peak memory, bytes to reduce; relative to alternating Adam.

    python examples/benchmarks/bench.py [--workloads mlp dcgan digits sngan1 sngan5] [--methods NAME ...] [--rounds N]
                                        [--batch-size N] [--device cpu | cuda] [--output FILE]

Each method trains in a process of its own and does one step when it is asked to, so that methods take turns: one round
is one step of each, in a random order. A ratio of times is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import random
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
from meters import Memory, Meter, Traffic
from methods import COMPILED, METHODS, SIMULTANEOUS
from workloads import workloads

# Without this, glibc hands every large tensor back to the system, and gets it again at the price of zeroing its pages.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**36), "KINETO_LOG_LEVEL": "9"}
FORKS = mp.get_context("forkserver")  # of a process that has imported the package, and computed nothing
FORKS.set_forkserver_preload(["methods", "lightning_lead.gan", "lightning_lead.callbacks"])
WARM_UP = 3  # steps before anything is read; by then every displacement is there


def serve(orders: Connection, workload: str, method: str, batch_size: int, device: str, memory: bool) -> None:
    """The process of one method."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    where = torch.device(device)
    traffic = Traffic()
    meter = Meter(orders, where, traffic)
    chosen = workloads(batch_size, on_gpu=where.type == "cuda")[workload]
    if memory:
        chosen.batch(where), chosen.built(where)
        meter.watch_memory(WARM_UP)
    METHODS[method](chosen, where, meter, traffic)


class MethodProcess:
    """One method in its own process."""

    def __init__(self, workload: str, method: str, batch_size: int, device: str, *, memory: bool = False) -> None:
        self._pipe, end = mp.Pipe()
        arguments = (end, workload, method, batch_size, device, memory)
        self._process = FORKS.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        end.close()

    def step(self, order: str) -> Any:
        """One game step under a meter."""
        self._pipe.send(order)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


@dataclass
class Row:
    """What was measured of one method."""

    seconds: list[float] = field(default_factory=list)
    flops: float = float("nan")
    memory: Memory = field(default_factory=lambda: Memory(float("nan"), float("nan")))
    traffic: float = float("nan")


def measure(workload: str, methods: Sequence[str], batch_size: int, device: str, rounds: int) -> dict[str, Row]:
    """Counts first, one method at a time; then rounds."""
    rows = {method: Row() for method in methods}
    for method, row in rows.items():
        watched = MethodProcess(workload, method, batch_size, device, memory=True)
        for _ in range(WARM_UP):
            row.memory = watched.step("seconds")
        row.flops, row.traffic = watched.step("flops"), watched.step("traffic")
        watched.close()
    measured = {method: MethodProcess(workload, method, batch_size, device) for method in methods}
    for _ in range(WARM_UP):
        for method in measured.values():
            method.step("seconds")
    for _ in range(rounds):
        for method in random.sample(list(methods), len(methods)):
            rows[method].seconds.append(measured[method].step("seconds"))
    for method in measured.values():
        method.close()
    return rows


def table(title: str, rows: dict[str, Row]) -> list[str]:
    """A Markdown table; every column but the seconds is relative to the first row."""
    base = next(iter(rows.values()))
    lines = [
        f"### {title}",
        "",
        "| method | FLOPs | wall time | median step | memory held | peak of a step | bytes to reduce |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, row in rows.items():
        ratio = statistics.median(mine / adam for mine, adam in zip(row.seconds, base.seconds, strict=True))
        cells = [
            f"{row.flops / base.flops:.2f}×",
            f"{ratio:.2f}×",
            f"{1000 * statistics.median(row.seconds):.4g} ms",
            f"{row.memory.held / base.memory.held:.2f}×",
            f"{row.memory.peak / base.memory.peak:.2f}×",
            f"{row.traffic / base.traffic:.2f}×",
        ]
        lines.append(f"| {method} | " + " | ".join("–" if "nan" in cell else cell for cell in cells) + " |")
    return [*lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print one table per workload, and write them to a file."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--workloads", nargs="+", help="default: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[], help="default: all but the compiled ones")
    parser.add_argument("--rounds", type=int, default=7, help="game steps that are timed (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="of the residual networks (default: 8 on a CPU, else 64)")
    parser.add_argument("--output", type=Path, default=Path("benchmark.md"), help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    cuda = chosen.device.startswith("cuda")
    batch_size = chosen.batch_size or (64 if cuda else 8)
    found = workloads(batch_size, on_gpu=cuda)
    if unknown := set(chosen.workloads or ()) - set(found):
        parser.error(f"unknown workloads {sorted(unknown)}; choose from {', '.join(found)}")
    os.environ.update(KEEP_MEMORY)
    methods = [
        "Adam",
        *(
            method
            for method in chosen.methods or [name for name in METHODS if name not in COMPILED]
            if method != "Adam"
        ),
    ]
    device = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads"
    lines = [f"{datetime.date.today()}, {device}, Python {platform.python_version()}, torch {torch.__version__}", ""]
    for name in chosen.workloads or found:
        workload = found[name]
        playing = [m for m in methods if workload.discriminator_steps == 1 or m not in SIMULTANEOUS]
        rows = measure(name, playing, batch_size, chosen.device, chosen.rounds)
        lines += table(workload.title, rows)
        print("\n".join(lines[-len(rows) - 5 :]), flush=True)
        chosen.output.write_text("\n".join(lines), encoding="utf-8")
    print(f"table: {chosen.output}")


if __name__ == "__main__":
    main()

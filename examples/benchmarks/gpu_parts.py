"""Parts of a lease: what each does, how long it may take, and how one is run, cut off and recorded.

Every part runs in a process of its own, a fork of one that has imported everything and computed nothing: a kernel that
fails spoils the device for its own process alone, and a part that hangs is killed when its seconds are over. While it
works it tells what it has found so far, which is what is kept of it then.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lightning_lead._errors import ConfigurationError, DivergenceError, first_line
from lightning_lead._files import finite

__all__ = ["FINAL", "Bench", "Part", "as_error", "planned", "run_part", "start_method"]

FINAL = {"done", "cut", "refused", "failed", "diverged"}
"""States of parts that are not made again; "unfinished" goes on, "waiting" waits for data."""
GRACE = 0.85  # of a part's seconds it works; in the rest it ends by itself, and then it is killed
RESERVE = 25.0  # seconds of a call for imports and files


def _nobody(found: dict[str, Any]) -> None:
    """Take what nobody wants to know."""


@dataclass(frozen=True)
class Bench:
    """What a part works with.

    Args:
        device: "cuda", or "cpu" in a dry run.
        output: folder of everything.
        dry: tiny networks, a step or two.
        game_steps: length of a training run.
        start: "fork", or "spawn" where a fork finds no device.
        until: on time.monotonic(), when the part should have ended.
        tell: takes what was found so far, a dict.
    """

    device: str
    output: Path
    dry: bool
    game_steps: int
    start: str = "fork"
    until: float = 0.0
    tell: Callable[[dict[str, Any]], None] = _nobody

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        name: with slashes, from the general to the particular.
        does: for the plan.
        seconds: the most that it takes.
        work: Bench -> state.
        least: seconds below which it does not begin; default all of them.
    """

    name: str
    does: str
    seconds: float
    work: Callable[[Bench], str]
    least: float | None = None


def as_error(error: BaseException) -> dict[str, Any]:
    """Return how an exception is recorded."""
    refused = isinstance(error, (ConfigurationError, NotImplementedError))
    state = "diverged" if isinstance(error, DivergenceError) else "refused" if refused else "failed"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in last]
    said = f"{type(error).__name__}: {first_line(error)}"[:400]
    return {"state": state, "error": said} | ({"at": where[0]} if where and state == "failed" else {})


def start_method() -> str | None:
    """Return how processes have to start to find a CUDA device, or None if they find none."""
    for method in ("fork", "spawn"):
        asking = multiprocessing.get_context(method).Process(target=_ask)  # type: ignore[attr-defined]
        asking.start()
        asking.join()
        if asking.exitcode == 0:
            return method
    return None


def _ask() -> None:
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        print(f"no device: {first_line(error)}")
        raise SystemExit(1) from None


def _work(part: Part, bench: Bench, seconds: float, pipe: Connection) -> None:
    """In the fork."""
    gc.freeze()  # what was imported stays, and need not be looked through
    torch.set_num_threads(1 if bench.dry else min(8, os.cpu_count() or 1))
    until = time.monotonic() + GRACE * seconds
    here = Bench(**(vars(bench) | {"until": until, "tell": lambda found: pipe.send({"found": found})}))
    try:
        pipe.send({"state": part.work(here)})
    except Exception as error:
        traceback.print_exc()
        pipe.send(as_error(error))


def run_part(part: Part, bench: Bench, seconds: float) -> dict[str, Any]:
    """Run a part for so many seconds at most, and return its record."""
    record: dict[str, Any] = {"begun": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()), "found": {}}
    context: Any = multiprocessing.get_context(bench.start)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part, bench, seconds, sender), daemon=True)
    begin = time.monotonic()
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, begin + seconds - time.monotonic())):
            record |= receiver.recv()
        # it has made no end by itself
        record |= {"state": "unfinished" if part.least is not None else "cut", "error": f"killed after {seconds:.0f} s"}
    except EOFError:
        process.join(5)
        if "state" not in record:
            record |= {"state": "failed", "error": f"its process ended with status {process.exitcode}"}
    finally:
        process.kill()
        process.join()
        receiver.close()
    ended: dict[str, Any] = finite(record | {"seconds": round(time.monotonic() - begin, 2)})
    return ended


def planned(parts: Iterable[Part], minutes: float) -> list[list[Part]]:
    """Return which call does what if every part takes all of its seconds."""
    calls: list[list[Part]] = []
    left = 0.0
    for part in parts:
        if part.seconds > left:
            calls.append([])
            left = 60 * minutes - RESERVE
        calls[-1].append(part)
        left -= part.seconds
    return calls

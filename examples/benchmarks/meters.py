"""Run one game step under a meter: seconds, FLOPs, bytes of memory, bytes handed to the reduction."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from lightning_lead.compare._flops import counted_flops

__all__ = ["Memory", "Meter", "Traffic"]

Step = Callable[[], object]


class Traffic:
    """Counts the bytes of the vectors that would cross ranks; hands them on as they are."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, vector: Any) -> Any:
        self.bytes += sum(t.numel() * t.element_size() for t in vector)
        return vector


class Memory(NamedTuple):
    """Bytes, besides the networks and the data."""

    held: float  # between steps: optimizer state, earlier parameters, graphs
    peak: float  # within a step, above that: activations, gradients, temporaries


class Meter:
    """Does what the other end of a pipe asks for, once per game step; a training loop hands it its steps.

    Args:
        orders: a pipe; "seconds", "flops" or "traffic" come in, and a number each goes out.
        device: where the step runs.
        traffic: what the method hands its vectors to.
    """

    def __init__(self, orders: Connection, device: torch.device, traffic: Traffic) -> None:
        self._orders, self._device, self._traffic = orders, device, traffic
        self._memory: profile | None = None
        self._steps = 0
        self._meters = {"seconds": self._time, "flops": counted_flops, "traffic": self._count_traffic}

    def watch_memory(self, steps: int) -> None:
        """From now on, until so many steps are over; the last one is answered by a `Memory`.

        What is there already is not counted, so what a method holds between steps is counted if it begins later.

        Args:
            steps: ≥ 1; the peak is that of the last one.
        """
        self._steps = steps
        if self._device.type == "cuda":
            self._start = torch.cuda.memory_allocated(self._device)
        else:
            self._memory = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._memory.start()

    def __call__(self, step: Step) -> None:
        """Wait for an order, run the step under that meter, and answer."""
        order = self._orders.recv()
        last = self._steps == 1
        self._steps -= 1
        self._orders.send(self._count_memory(step) if last else self._meters[order](step))

    def _time(self, step: Step) -> float:
        if self._device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self._device)
            begin.record()
            step()
            end.record()
            torch.cuda.synchronize(self._device)
            return float(begin.elapsed_time(end)) / 1000
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    def _count_traffic(self, step: Step) -> float:
        self._traffic.bytes = 0
        step()
        return float(self._traffic.bytes) or math.nan  # a method that hands nothing over was not counted

    def _count_memory(self, step: Step) -> Memory:
        if self._memory is None:
            held = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            step()
            return Memory(float(held - self._start), float(torch.cuda.max_memory_allocated(self._device) - held))
        with torch.profiler.record_function(_LAST):
            step()
        self._memory.stop()
        events = sorted(self._memory.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        begin = next(event.start_ns() for event in events if event.name() == _LAST)
        allocations = [(event.start_ns() >= begin, event.nbytes()) for event in events if event.name() == "[memory]"]
        held = sum(size for inside, size in allocations if not inside)
        level = itertools.accumulate(size for inside, size in allocations if inside)
        return Memory(float(held), float(max(level)))


_LAST = "the step whose peak is wanted"

"""A stopwatch for game steps: milliseconds, peak memory, FLOPs, the host's share, and kernels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lightning_lead.callbacks.throughput import _Mark as Mark
from lightning_lead.compare._flops import counted_flops

__all__ = ["Over", "Stopwatch"]

LEAST = 3  # steps that are timed even when the time is over


class Over(Exception):
    """Enough steps."""


class Stopwatch:
    """Takes steps of one method, phase after phase, and raises `Over` when all are done.

    Args:
        device: where the steps run.
        phases: (name, steps), in this order; of "warm", "timed", "alone", "flops" and "kernels".
        until: on time.monotonic(), after which phases that repeat are cut short.
    """

    def __init__(self, device: torch.device, phases: list[tuple[str, int]], until: float) -> None:
        self._device, self._phases, self._until = device, list(phases), until
        self._phase, self._left = "", 0
        self._marks: list[Mark] = []
        self._alone: list[tuple[float, float]] = []
        self._profile: profile | None = None
        self._profiled = 0
        self.found: dict[str, Any] = {}

    def __call__(self, step: Callable[[], object]) -> None:
        """Take one step."""
        taken = {"timed": len(self._marks), "alone": len(self._alone)}.get(self._phase, 0)
        if taken > LEAST and time.monotonic() > self._until:
            self._left = 0
        while self._left == 0:
            getattr(self, f"_end_{self._phase}", lambda: None)()
            if not self._phases:
                raise Over
            self._phase, self._left = self._phases.pop(0)
            getattr(self, f"_begin_{self._phase}", lambda: None)()
        self._left -= 1
        getattr(self, f"_take_{self._phase}")(step)

    def _wait(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _take_warm(self, step: Callable[[], object]) -> None:
        step()

    def _begin_timed(self) -> None:
        self._wait()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _take_timed(self, step: Callable[[], object]) -> None:
        self._marks.append(Mark(self._device))
        step()

    def _end_timed(self) -> None:
        self._marks.append(Mark(self._device))
        self._marks[-1].wait()
        self.found["times"] = [1000 * after.since(before) for before, after in pairwise(self._marks)]
        cuda = self._device.type == "cuda"
        self.found["peak_bytes"] = torch.cuda.max_memory_allocated() if cuda else None

    def _take_alone(self, step: Callable[[], object]) -> None:
        begin = self._wait()
        step()
        queued = time.perf_counter()
        self._alone.append((1000 * (queued - begin), 1000 * (self._wait() - begin)))

    def _end_alone(self) -> None:
        queued, whole = (statistics.median(times) for times in zip(*self._alone, strict=True))
        self.found |= {"queueing_ms": queued, "alone_ms": whole, "host_share": queued / whole}

    def _take_flops(self, step: Callable[[], object]) -> None:
        self.found["flops"] = counted_flops(step)

    def _begin_kernels(self) -> None:
        kinds = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        self._profile = profile(activities=[ProfilerActivity.CPU, *kinds])
        self._wait()
        self._profile.start()

    def _take_kernels(self, step: Callable[[], object]) -> None:
        step()
        self._profiled += 1

    def _end_kernels(self) -> None:
        assert self._profile is not None
        self._wait()
        self._profile.stop()
        on_device = [event for event in self._profile.key_averages() if "CUDA" in str(event.device_type)]
        longest = sorted(on_device, key=lambda event: -event.self_device_time_total)
        self.found["kernels_per_step"] = sum(event.count for event in on_device) / self._profiled
        self.found["kernels_ms"] = sum(e.self_device_time_total for e in on_device) / 1000 / self._profiled
        self.found["longest_kernels_ms"] = {
            event.key[:80]: event.self_device_time_total / 1000 / self._profiled for event in longest[:6]
        }

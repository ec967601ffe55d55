"""Game steps under a stopwatch: milliseconds, peak memory, FLOPs, and the host's share, of each form of the game.

Time is from the start of one game step to that of the next, Lightning's loop included, by events that the device
passes; nothing is waited for in between. Each form is played twice, in one order and then in the other. The host's
share is the time that queueing a step takes, by the time until the device has done it, one step at a time, where no
step reads a value (`skip_limit=None`).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch._dynamo
from gpu_parts import Bench, as_error
from meters import Traffic
from methods import library
from torch import nn
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile
from workloads import Workload, workloads

from lightning_lead import LEADStrategy
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.callbacks.throughput import _Mark as Mark
from lightning_lead.compare._flops import counted_flops
from lightning_lead.networks import DCGAN32Discriminator, DCGAN32Generator, DCGANDiscriminator, DCGANGenerator

__all__ = ["COMPILED", "FORMS", "NETWORKS", "PRECISIONS", "measure", "use_tf32"]

FORMS: dict[str, dict[str, Any]] = {
    "plain": {"coupling": 0.0},
    "LEAD exact": {},
    "LEAD difference": {"cross": "difference"},
    "LEAD extrapolated": {"cross": "extrapolated"},
}
PRECISIONS = {"fp32": "32-true", "TF32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""All but fp32 let what stays in float32 use TF32."""
NETWORKS = ("SNGAN-ResNet32", "DCGAN")
COMPILED: dict[str, dict[str, Any]] = {"compile": {}, "graphs": {"mode": "reduce-overhead"}}
"""Arguments of torch.compile; the second one uses CUDA graphs inside of compiled networks."""


LEAST = 3  # steps that are taken even when the time is over


class Over(Exception):
    """Enough steps."""


def workload(network: str, precision: str, channels_last: bool, *, dry: bool) -> Workload:
    """Return the networks and batches of the recipes cifar10_sngan32 and cifar10_dcgan; tiny ones in a dry run."""
    found = workloads(2 if dry else 64, on_gpu=False)
    if dry:
        chosen = replace(found["digits"], networks=_tiny, latent_dim=4, batch_size=2)
    elif network == "DCGAN":
        nets = lambda: (DCGAN32Generator(), DCGAN32Discriminator())  # noqa: E731
        chosen = replace(found["dcgan"], networks=nets, latent_dim=100, betas=(0.5, 0.999))
    else:
        chosen = found["sngan5"]
    return replace(chosen, precision=PRECISIONS[precision], channels_last=channels_last)


def _tiny() -> tuple[nn.Module, nn.Module]:
    sizes: dict[str, Any] = {"channels": 1, "image_size": 8, "width": 2}
    return DCGANGenerator(latent_dim=4, **sizes), DCGANDiscriminator(**sizes)


@contextlib.contextmanager
def use_tf32(allowed: bool) -> Iterator[None]:
    """Let products of float32 be rounded to TF32, or not; for the rest of the process."""
    if allowed:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        yield
    else:
        with full_float32():
            yield


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


def played(
    form: str, chosen: Workload, device: torch.device, watch: Stopwatch, *, fused: bool, **settings: Any
) -> dict[str, Any]:
    """Play one form under the stopwatch, and return what it has found."""
    reads = settings.pop("reads")
    game = partial(LEADStrategy, **FORMS[form], **({} if reads else {"skip_limit": None}))
    if fused:
        settings["optimizer"] = partial(torch.optim.Adam, lr=2e-4, betas=chosen.betas, fused=True)
    try:
        library(game, channels_last=chosen.channels_last, **settings)(chosen, device, watch, Traffic())  # type: ignore[arg-type]
    except Over:
        pass
    finally:
        gc.collect()  # networks of a form that has ended must not count as the next one's
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return watch.found


def measure(
    bench: Bench,
    network: str,
    precision: str,
    channels_last: bool,
    *,
    compiled: str = "",
    fused: bool = False,
    host: bool = False,
) -> str:
    """Measure the four forms; a form that is refused or fails is recorded as such, and the others go on."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel("ERROR")
    device = torch.device(bench.device)
    chosen = workload(network, precision, channels_last, dry=bench.dry)
    settings: dict[str, Any] = {"reads": not host}
    if compiled:
        settings["compiled"] = {"disable": True} if bench.dry else COMPILED[compiled]
        # past its limit torch goes on uncompiled with a line in the log, and the time would be another thing's
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    if host:
        phases = [("warm", 8), ("alone", 30), ("kernels", 3), ("timed", 40)]
    else:
        counted = precision == "fp32" and not channels_last and not compiled  # they are the same for all
        phases = [("warm", 8), ("timed", 60), *([("flops", 1)] if counted else [])]
    if bench.dry:
        phases = [(name, 1) for name, _ in phases if name != "warm"]
    order = list(FORMS)
    turns = order if compiled or host or bench.dry else [*order, *reversed(order)]  # compiling takes too long for two
    found: dict[str, dict[str, Any]] = {form: {"state": "cut"} for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for k, form in enumerate(turns):
        if bench.left <= 0 or found[form]["state"] not in ("cut", "done"):
            continue
        watch = Stopwatch(device, phases, time.monotonic() + bench.left / (len(turns) - k))
        try:
            torch._dynamo.reset()
            counters.clear()
            with use_tf32(precision != "fp32"):
                block = played(form, chosen, device, watch, fused=fused, **settings)
            if compiled:
                block["graphs"] = counters["stats"]["unique_graphs"]
                block["graph_breaks"] = sum(counters["graph_break"].values())
            times[form] += block.pop("times")
            found[form] |= block | {"state": "done"} | _of(times[form])
        except Exception as error:
            found[form] |= as_error(error)
        if times[form] and times["plain"]:
            for each in FORMS:
                if times[each]:
                    found[each]["to_plain"] = statistics.median(times[each]) / statistics.median(times["plain"])
        images = chosen.batch_size * chosen.discriminator_steps
        bench.tell({"forms": found, "reals_per_step": images})
    return "cut" if any(f["state"] == "cut" for f in found.values()) else "done"


def _of(times: list[float]) -> dict[str, Any]:
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return {"milliseconds": quarters[1], "quartiles": [quarters[0], quarters[2]], "steps": len(times)}

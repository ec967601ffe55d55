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
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch._dynamo
from gpu_parts import Bench, as_error
from gpu_stopwatch import Over, Stopwatch
from meters import Traffic
from methods import library
from torch import nn
from torch._dynamo.utils import counters
from workloads import Workload, workloads

from lightning_lead import LEADStrategy
from lightning_lead.calculus._float32 import full_float32
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


WARM = 5  # steps before the clock starts


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


def played(
    form: str, chosen: Workload, device: torch.device, watch: Stopwatch, *, fused: bool, **settings: Any
) -> dict[str, Any]:
    """Play one form under the stopwatch, and return what it has found."""
    reads = settings.pop("reads")
    options: dict[str, Any] = FORMS[form] | ({} if reads else {"skip_limit": None})
    game = partial(LEADStrategy, **options)
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
        phases = [("warm", WARM), ("timed", 40), ("alone", 30), ("kernels", 3)]
    else:
        counted = precision == "fp32" and not channels_last and not compiled  # they are the same for all
        phases = [("warm", WARM), ("timed", 60), *([("flops", 1)] if counted else [])]
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
            if compiled:
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

"""Measure on a CUDA device in calls of a few minutes, each of which goes on where the one before has ended.

    python examples/benchmarks/gpu.py [--minutes 9] [--output runs/gpu] [--take FOLDER ...] [--only PART ...]
    python examples/benchmarks/gpu.py --plan          which call does what, and how long at most
    python examples/benchmarks/gpu.py --pack FOLDER   CIFAR-10 and Inception in parts, for a machine without a network
    python examples/benchmarks/gpu.py --dry-run       all of it on a CPU, with tiny networks: numbers that mean nothing

In the output folder: gpu.json, to which every part is written as it ends, and gpu.md, its tables. Parts that have ended
are not made again (--again PART makes them so); a training part goes on from its checkpoint. A part that raises is
recorded, and the others go on. Needs torch and Lightning; what else there is (pytest, Inception) is used.

The freight of --pack is about 148 MB: three transfers of at most 50 MiB (--part-mib), each of one folder. On the other
side `--take FOLDER` keeps what has come, and joins the parts when all are there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a look at the device that forks can bear
sys.path.insert(0, str(Path(__file__).parent))
import torch
import torch._decomp.decompositions_for_jvp  # as the next one, what every part would have to import anew
import torch._dynamo
from gpu_freight import PART_MIB, pack, take
from gpu_machine import describe, run_tests
from gpu_parts import FINAL, Bench, Part, planned, run_part, start_method
from gpu_report import report
from gpu_steps import COMPILED, NETWORKS, PRECISIONS, measure
from gpu_training import BETAS, made_up_images, play, reference

from lightning_lead._files import held, write_json

SLOW = 20  # times a part's seconds in a dry run, whose machine may have other things to do
ENOUGH = 45.0  # seconds below which a training part does not begin


def all_parts() -> list[Part]:
    """Return every part, in the order of its worth."""
    parts = [
        Part("machine", "device, driver, versions, what is missing", 15, describe),
        Part("tests", "pytest -m gpu tests/gpu", 120, run_tests),
    ]
    layouts = {"contiguous": False, "channels last": True}
    for layout, last in layouts.items():
        for precision in PRECISIONS:
            for network in NETWORKS:
                name = f"steps/{network}/{precision}/{layout}/eager"
                seconds = 26 if network == "SNGAN-ResNet32" else 14
                work = partial(measure, network=network, precision=precision, channels_last=last)
                parts.append(Part(name, "plain, exact, difference, extrapolated", seconds, work))
    for network in NETWORKS:
        work = partial(measure, network=network, precision="bf16", channels_last=True, host=True)
        parts.append(Part(f"host/{network}/bf16/channels last", "queueing, kernels", 25, work))
    does = "the reals through Inception"
    parts.append(Part("training/reference", does, 75, reference, least=60))
    for form in ("plain", "LEAD extrapolated"):
        for beta in BETAS:
            work = partial(play, form=form, beta=beta)
            parts.append(Part(f"training/{form}/{beta:g}", "a segment, with scores", 110, work, least=ENOUGH))
    for network in NETWORKS:
        work = partial(measure, network=network, precision="bf16", channels_last=True, fused=True)
        parts.append(Part(f"steps/{network}/bf16/channels last/fused Adam", "the four forms", 20, work))
    for mode in COMPILED:
        for network in NETWORKS:
            work = partial(measure, network=network, precision="bf16", channels_last=True, compiled=mode)
            does = "the four forms, networks compiled" + (", with CUDA graphs" if mode == "graphs" else "")
            parts.append(Part(f"steps/{network}/bf16/channels last/{mode}", does, 90, work))
    for beta in BETAS:
        work = partial(play, form="LEAD exact", beta=beta)
        parts.append(Part(f"training/LEAD exact/{beta:g}", "a segment, with scores", 110, work, least=ENOUGH))
    return parts


def plan(parts: Sequence[Part], minutes: float) -> str:
    """Return which call does what, at most, as a table."""
    lines = ["| call | part | seconds at most |", "|---|---|---|"]
    for number, call in enumerate(planned(parts, minutes), 1):
        groups: dict[tuple[str, ...], list[Part]] = {}
        for part in call:
            kind, *names = part.name.split("/")
            groups.setdefault((kind, names[-1] if kind == "steps" else "", part.does), []).append(part)
        for (kind, mode, does), members in groups.items():
            several = f", {len(members)} parts" if len(members) > 1 else ""
            seconds = sum(part.seconds for part in members)
            lines.append(f"| {number} | {kind}{f' ({mode})' if mode else ''}{several}: {does} | {seconds:g} |")
        lines.append(f"| {number} | all | {sum(part.seconds for part in call):g} |")
    return "\n".join(lines)


def begin(output: Path, taken: Sequence[Path]) -> list[str]:
    """Make the folder, take what was brought, and let the package find it; return what is still to be brought."""
    output.mkdir(parents=True, exist_ok=True)
    missing = take(taken, output) if taken or (output / "freight").is_dir() else []
    store = output / "store"
    if (store / "cifar10" / "manifest.json").is_file():
        os.environ["LIGHTNING_LEAD_HOME"] = str(store.resolve())
        sys.path.append(str((store / "site").resolve()))  # after what is installed
    return missing


def work_through(parts: Sequence[Part], bench: Bench, until: float, path: Path) -> dict[str, Any]:
    """Run what is not final yet, as long as the time goes; write the record after each part."""
    results: dict[str, Any] = {"parts": {}, "calls": []}
    if path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
    kept = results["parts"]
    call: dict[str, Any] = {
        "begun": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "dry_run": bench.dry,
        "parts": [],
    }
    results["calls"].append(call)
    # runs that were cut off go on when the others have had as many segments
    for part in sorted(parts, key=lambda part: len(kept.get(part.name, {}).get("segments", []))):
        earlier = kept.get(part.name, {})
        left = until - time.monotonic()
        if earlier.get("state") in FINAL or left < (part.least or part.seconds):
            continue
        print(f"{part.name} ...", end=" ", flush=True)
        record = run_part(part, bench, min(part.seconds * (SLOW if bench.dry else 1), left))
        print(f"{record['state']}, {record['seconds']:.0f} s {record.get('error', '')}", flush=True)
        segment = {key: record[key] for key in ("begun", "seconds", "state")}
        segments = [*earlier.get("segments", []), *([] if record["state"] == "waiting" else [segment])]
        found = record["found"] or earlier.get("found", {})  # of a segment that has told nothing, what was known
        kept[part.name] = record | {"found": found, "segments": segments}
        call["parts"].append(part.name)
        results["parts"] = kept = {p.name: kept[p.name] for p in all_parts() if p.name in kept}
        write_json(path, results)
        path.with_suffix(".md").write_text(report(results), encoding="utf-8")
    write_json(path, results)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack, print the plan, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call (default: %(default)s)")
    parser.add_argument("--game-steps", type=int, default=3000, help="of a training run (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts whose names begin so")
    parser.add_argument("--again", nargs="+", default=[], metavar="PART", help="forget what is known of these")
    parser.add_argument("--take", nargs="+", type=Path, default=[], metavar="FOLDER", help="of parts that have come")
    parser.add_argument("--plan", action="store_true", help="print which call does what, and do nothing")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write the freight, and do nothing else")
    parser.add_argument("--part-mib", type=float, default=PART_MIB, help="largest part (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny networks and images of noise")
    chosen = parser.parse_args(arguments)
    until = time.monotonic() + (3600 if chosen.dry_run else 60 * chosen.minutes - 10)
    torch.set_num_threads(1)  # threads of this process would not be there in its forks, which would wait for them
    parts = all_parts()
    if chosen.plan:
        print(plan(parts, chosen.minutes))
        return
    if chosen.pack:
        folders = pack(chosen.pack, part_mib=chosen.part_mib)
        print(f"{len(folders)} transfers: {', '.join(map(str, folders))}")
        return
    output: Path = chosen.output / "dry" if chosen.dry_run else chosen.output
    with held(output, purpose="measure into"):
        missing = begin(output, chosen.take)
        if missing:
            print(f"still to be brought: {', '.join(missing)}")
        if chosen.dry_run:
            made_up_images(output / "store")
            begin(output, [])
        start = "fork" if chosen.dry_run else start_method()
        if start is None:
            raise SystemExit(
                "gpu.py: Cannot measure because torch finds no CUDA device; try --dry-run, --plan or --pack"
            )
        if chosen.again:
            _forget(chosen.again, output)
        device, steps = ("cpu", 2) if chosen.dry_run else ("cuda", chosen.game_steps)
        bench = Bench(device, output, chosen.dry_run, steps, start)
        wanted = [part for part in parts if not chosen.only or part.name.startswith(tuple(chosen.only))]
        results = work_through(wanted, bench, until, output / "gpu.json")
    states = [results["parts"].get(part.name, {}).get("state", "not begun") for part in parts]
    print(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
    print(f"written: {output / 'gpu.json'}, {output / 'gpu.md'}")


def _forget(names: Sequence[str], output: Path) -> None:
    path = output / "gpu.json"
    if path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
        for name in [name for name in results["parts"] if name.startswith(tuple(names))]:
            found = results["parts"].pop(name)["found"]
            if "folder" in found:
                shutil.rmtree(output / "training" / found["folder"], ignore_errors=True)
        write_json(path, results)


if __name__ == "__main__":
    main(sys.argv[1:])

"""A lease's record as Markdown: tables that docs/speed.md and docs/cifar10.md can take as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["report"]

Record = Mapping[str, Any]


def report(results: Record) -> str:
    """Return all tables."""
    parts = results["parts"]
    machine = parts.get("machine", {}).get("found", {})
    named = ("device", "torch", "cuda", "lightning", "lightning_lead", "python")
    head = ", ".join(f"{name} {machine.get(name, '?')}" for name in named)
    lines = ["# One lease of a GPU", "", head, ""]
    lines += ["## Tests", "", *_tests(parts.get("tests", {})), ""]
    lines += ["## Game steps", "", *_steps(parts), "", "## The host's share", "", *_host(parts), ""]
    lines += ["## CIFAR-10 by momentum", "", *_training(parts), "", "## Parts", "", *_parts(parts), ""]
    return "\n".join(lines)


def _cell(value: Any, form: str = "", *, scale: float = 1.0) -> str:
    return "–" if value is None else f"{value / scale:{form}}"


def _tests(record: Record) -> Iterator[str]:
    found = record.get("found", {})
    if "passed" not in found:
        yield found.get("missing") or record.get("error", "not run yet")
        return
    counts = ", ".join(f"{found[name]} {name}" for name in ("passed", "failed", "skipped"))
    yield f"`pytest -m gpu tests/gpu`: {counts}{_unless_done(record)}"
    for name, said in found["failures"].items():
        yield f"- `{name}`: {said[0] if said else ''}"


def _steps(parts: Record) -> Iterator[str]:
    yield "| networks | form | precision | layout | runs as | ms per step | to plain | reals per s | peak GiB | GFLOP |"
    yield "|---" * 10 + "|"
    for name, record in parts.items():
        if not name.startswith("steps/"):
            continue
        _, network, precision, layout, mode = name.split("/")
        found = record["found"]
        for form in found.get("forms", {"all": {}}):
            row = found.get("forms", {}).get(form, record)
            time, reals = row.get("milliseconds"), found.get("reals_per_step")
            cells = [
                _cell(time, ".2f"),
                _cell(row.get("to_plain"), ".3f"),
                _cell(None if not time else 1000 * reals / time, ",.0f"),
                _cell(row.get("peak_bytes"), ".2f", scale=2**30),
                _cell(row.get("flops"), ",.1f", scale=1e9),
            ]
            if time is None:
                cells[0] = f"{row.get('state', '?')}: {_plain(row.get('error', ''))}"
            yield f"| {network} | {form} | {precision} | {layout} | {mode} | {' | '.join(cells)} |"


def _host(parts: Record) -> Iterator[str]:
    yield "| networks | precision | form | ms to queue | ms alone | share | ms per step | ms in kernels | kernels |"
    yield "|---" * 9 + "|"
    for name, record in parts.items():
        if not name.startswith("host/"):
            continue
        _, network, precision, _ = name.split("/")
        for form, row in record["found"].get("forms", {}).items():
            keys = ("queueing_ms", "alone_ms", "host_share", "milliseconds", "kernels_ms", "kernels_per_step")
            cells = [_cell(row.get(key), ".0f" if key == "kernels_per_step" else ".2f") for key in keys]
            yield f"| {network} | {precision} | {form} | {' | '.join(cells)} |"


def _training(parts: Record) -> Iterator[str]:
    yield "| form | β₁ | game steps | reals per s | FID | KID × 1000 | at step | state |"
    yield "|---" * 8 + "|"
    scored_by = ""
    for name, record in parts.items():
        found = record["found"]
        if not name.startswith("training/") or "global_step" not in found:
            continue
        scored_by = found["features"]
        scores = found["scores"] or {"–": {}}
        at, last = list(scores.items())[-1]
        cells = [
            f"{found['global_step']:,} of {found['max_steps']:,}",
            _cell(found["reals_per_second"], ",.0f"),
            _cell(last.get("fid"), ".2f"),
            _cell(last.get("kid"), ".2f", scale=1e-3),
            at,
            record["state"],
        ]
        yield f"| {found['form']} | {found['beta1']:g} | {' | '.join(cells)} |"
    if scored_by:
        yield ""
        yield f"Scores by: {scored_by}."


def _parts(parts: Record) -> Iterator[str]:
    yield "| part | state | seconds | |"
    yield "|---" * 4 + "|"
    for name, record in parts.items():
        yield f"| {name} | {record['state']} | {record['seconds']:.0f} | {_plain(record.get('error', ''))} |"


def _unless_done(record: Record) -> str:
    return "" if record["state"] == "done" else f" ({record['state']}: {record.get('error', '')})"


def _plain(text: str) -> str:
    return text.replace("|", "/")[:160]

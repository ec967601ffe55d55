"""The table and the figure of a comparison.

Cost is counted: FLOPs of a game step relative to the first row's. Scores are mean ± standard deviation over seeds.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead._files import replacing
from lightning_lead.compare._notes import protocol_notes
from lightning_lead.compare._plan import Run

__all__ = ["summary", "write_report"]

Result = dict[str, Any]
Row = dict[str, Any]

_NOT_SCORES = {"label", "seeds", "failed", "flops", "cost", "seconds_per_step", "time", "step", "skipped", "curve"}
_NOT_SCORES |= {"gradients", "hessian_products", "equal"}


def summary(runs: Sequence[Run], results: Sequence[Result], score: str | None = None) -> list[Row]:
    """Return one row per game: its scores at the last step that all of its seeds reached, and what a game step costs.

    Where every seed has a score of its own after the end (`--final_samples`), that one is the row's.

    Args:
        runs: what was run.
        results: of each.
        score: that `curve` is of; default the first one that a result has.

    Raises:
        ConfigurationError: no result has that score.

    Example:
        >>> from lightning_lead.compare import Entry
        >>> run = Run(Entry("A", "LEAD", ()), 0, Path("a"), (), "")
        >>> result = {"history": [{"step": 5, "values": {"fid": 2.0}}], "flops_per_step": 10.0, "seconds": 1.0,
        ...           "steps": 5, "evaluations_per_step": {"gradients": 2.0}, "skipped_turns": 0}
        >>> row, = summary([run], [result])
        >>> row["fid"], row["cost"], row["gradients"]
        ((2.0, 0.0), 1.0, 2.0)
    """
    names = _scores(results)
    if score is not None and score not in names:
        raise ConfigurationError(f"Cannot show the score {score!r}; the recipe has {', '.join(names) or 'none'}")
    names.sort(key=lambda name: name != score)
    by_label: dict[str, list[Result]] = {}
    for run, result in zip(runs, results, strict=True):
        by_label.setdefault(run.entry.label, []).append(result)
    rows = [_row(label, found, names) for label, found in by_label.items()]
    done = [row for row in rows if row["seeds"]]
    for key, relative in (("flops", "cost"), ("seconds_per_step", "time")):
        for row in done:
            row[relative] = row[key] / done[0][key] if done[0][key] else math.nan
    curves = [row for row in done if row.get("curve") and row["flops"]]
    budget = min((row["flops"] * row["curve"][-1][0] for row in curves), default=0.0)  # that every row has spent
    for row in curves:
        spent = [look for look in row["curve"] if look[0] * row["flops"] <= budget * (1 + 1e-9)]
        row["equal"] = spent[-1] if spent else None
    return rows


def _scores(results: Sequence[Result]) -> list[str]:
    """Return the names of all scores, in the order in which they are met."""
    records = [[*result.get("history", []), *filter(None, [result.get("final")])] for result in results]
    return list(dict.fromkeys(name for found in records for record in found for name in record["values"]))


def _row(label: str, results: Sequence[Result], names: Sequence[str]) -> Row:
    done = [result for result in results if "failed" not in result]
    row: Row = {"label": label, "seeds": len(done), "failed": [r["failed"] for r in results if "failed" in r]}
    if not done:
        return row
    row["flops"] = statistics.fmean(r["flops_per_step"] for r in done)
    timed = [r["timed_steps" if "timed_steps" in r else "steps"] for r in done]  # all, in results of early versions
    row["seconds_per_step"] = statistics.fmean(r["seconds"] / max(1, n) for r, n in zip(done, timed, strict=True))
    for key in ("gradients", "hessian_products"):
        row[key] = statistics.fmean(r["evaluations_per_step"].get(key, 0.0) for r in done)
    row["skipped"] = sum(r["skipped_turns"] for r in done)
    curves = [{(r["step"], name): _number(v) for r in d["history"] for name, v in r["values"].items()} for d in done]
    common = sorted(set.intersection(*map(set, curves)))
    for name in names:
        curve = [(step, *_spread([found[step, name] for found in curves])) for step, key in common if key == name]
        if curve:
            row["step"], row[name] = curve[-1][0], curve[-1][1:]
            if name == names[0]:
                row["curve"] = curve
    finals = [result["final"] for result in done if result.get("final")]
    if len(finals) == len(done):  # a score of its own after the end, of more samples than those on the way
        row["step"] = min(final["step"] for final in finals)
        shared = set.intersection(*(set(final["values"]) for final in finals))
        row |= {name: _spread([_number(final["values"][name]) for final in finals]) for name in names if name in shared}
    return row


def write_report(runs: Sequence[Run], results: Sequence[Result], output: Path, *, score: str | None = None) -> str:
    """Write `table.md`, `table.csv` and `curves.png`; return the table, and where everything is.

    What cannot be written, or shown, is said there and keeps nobody from the rest.
    """
    where = []
    if score is not None and score not in (known := _scores(results)):
        where.append(f"no {score!r} among the scores, which are {', '.join(known) or 'none'}")
        score = None
    rows = summary(runs, results, score)
    names = list(dict.fromkeys(name for row in rows for name in row if name not in _NOT_SCORES))
    names.sort(key=lambda name: name != score)
    equal = [f"{names[0]} at equal FLOPs"] if names and any(_is_cut(row) for row in rows) else []
    heads = [
        "game",
        *names[:1],
        *equal,
        *names[1:],
        "seeds",
        "cost",
        "time",
        "gradients",
        "Hessian products",
        "skipped turns",
    ]
    cells = [_cells(row, names, equal=bool(equal)) for row in rows]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "¦") for cell in row) + " |" for row in cells]
    steps = max((row.get("step", 0) for row in rows), default=0)
    first = next((row["label"] for row in rows if row["seeds"]), "the first row")  # that has a result
    lines += [
        "",
        f"After {steps} game steps; mean ± standard deviation over seeds. Cost: counted FLOPs of a game step relative "
        f"to {first}, mean of steps spread over the run; time: seconds of a game step, the same. Gradients and Hessian "
        "products: asked for per game step."
        + (
            " At equal FLOPs: at the last look, (game step), within the FLOPs that every row has spent."
            if equal
            else ""
        ),
        *protocol_notes(runs, results),
    ]
    text = "\n".join(lines)
    try:
        with replacing(output / "table.md") as draft:
            draft.write_text(text + "\n", encoding="utf-8")
        with replacing(output / "table.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([heads, *cells])
        where.append(f"table: {output / 'table.md'}")
        with replacing(output / "curves.png") as draft:
            _plot(rows, names[0] if names else "score", draft)
        where.append(f"figure: {output / 'curves.png'}")
    except ImportError:
        where.append("no figure: pip install 'lightning-lead[plots]'")
    except OSError as error:
        where.append(f"not written, or not all: {error}")
    return "\n".join([text, "", *where])


def _is_cut(row: Row) -> bool:
    """Return True if a row has spent more than another one, so that its last scores are not at equal FLOPs."""
    return "equal" in row and row["equal"] != row["curve"][-1]


def _cells(row: Row, names: Sequence[str], *, equal: bool) -> list[str]:
    failed = row["failed"]
    if not row["seeds"]:
        return [row["label"], f"failed: {failed[0]}", *[""] * (len(names) + 5 + equal)]
    scores = [f"{row[name][0]:.4g} ± {row[name][1]:.2g}" if name in row else "–" for name in names]
    if equal:
        look = row.get("equal")
        scores.insert(1, "–" if look is None else f"{look[1]:.4g} ± {look[2]:.2g} ({look[0]})")
    seeds = str(row["seeds"]) + (f" ({len(failed)} failed: {failed[0]})" if failed else "")
    counts = [f"{row['cost']:.2f}×", f"{row['time']:.2f}×", f"{row['gradients']:.3g}", f"{row['hessian_products']:.3g}"]
    return [row["label"], *scores, seeds, *counts, str(row["skipped"])]


def _plot(rows: Sequence[Row], score: str, path: Path) -> None:
    """Draw the curves of `score` against game steps and against compute."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    drawn = [row for row in rows if row.get("curve")]
    for number, row in enumerate(drawn):
        steps, means, spreads = (list(column) for column in zip(*row["curve"], strict=True))
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        for axes, scale in zip(panels, (1.0, row["cost"]), strict=True):
            at = [step * scale for step in steps]
            axes.plot(at, means, marker=".", label=row["label"], **style)
            low = [m - s if m > s else m for m, s in zip(means, spreads, strict=True)]
            high = [m + s for m, s in zip(means, spreads, strict=True)]
            axes.fill_between(at, low, high, alpha=0.15, color=style["color"], linewidth=0)
    if any(value > 0 for row in drawn for _, value, _ in row["curve"]) and score in ("fid", "kid"):
        panels[0].set_yscale("log")
    panels[0].set(xlabel="game steps", ylabel=score)
    panels[1].set(xlabel="compute (game steps of the first row)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=130, format="png")


def _number(value: float | None) -> float:
    """Return a score as it was before `write_json` wrote null for what is not finite."""
    return math.nan if value is None else value


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation; nan where a seed has no number."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

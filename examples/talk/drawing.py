"""What the figures of this folder share: how their scripts are called, lines that coincide, and where pictures go."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """--output and --fast, described by a script's own docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/talk"), help="default: %(default)s")
    parser.add_argument("--fast", action="store_true", help="few points and few steps, to see that it runs")
    return parser


def save(figure: Figure, folder: Path, name: str) -> None:
    """NAME.png in the folder, made if need be; says where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(path, flush=True)


def striped(
    axes: plt.Axes, xs: Sequence[float], curves: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> None:
    """One line per curve; where curves coincide (within 1 %) they share it in stripes, so that none hides another."""

    def together(k: int) -> list[list[str]]:
        """The curves that have both ends of interval k, by where they lie."""
        groups: list[list[str]] = []
        for name, ys in curves.items():
            ends = ys[k : k + 2]
            if not all(map(math.isfinite, ends)):
                continue
            for group in groups:
                if all(
                    math.isclose(a, b, rel_tol=0.01) for a, b in zip(ends, curves[group[0]][k : k + 2], strict=True)
                ):
                    group.append(name)
                    break
            else:
                groups.append([name])
        return groups

    pieces: dict[tuple[str, int, int], list[int]] = {}  # (curve, its place among how many) -> intervals
    for k in range(len(xs) - 1):
        for group in together(k):
            for place, name in enumerate(group):
                pieces.setdefault((name, place, len(group)), []).append(k)
    for (name, place, count), intervals in pieces.items():
        for _, run in itertools.groupby(enumerate(intervals), key=lambda pair: pair[1] - pair[0]):
            ks = [k for _, k in run]
            axes.plot(
                xs[ks[0] : ks[-1] + 2],
                curves[name][ks[0] : ks[-1] + 2],
                color=colours[name],
                lw=2,
                ls="-" if count == 1 else (4 * place, (4, 4 * (count - 1))),
                dash_capstyle="butt",
            )


def legend_of(where: Figure | plt.Axes, colours: Mapping[str, str], more: Sequence[Line2D] = (), **place: Any) -> None:
    """Names and colours, and more marks; default to the right of a figure's axes."""
    lines = [Line2D([], [], color=colour, lw=2.5, label=name) for name, colour in colours.items()]
    where.legend(handles=[*lines, *more], **({"loc": "outside right center", "fontsize": 9, "frameon": False} | place))

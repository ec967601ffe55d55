"""What the figures of this folder share: how their scripts are called, and where pictures go."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


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

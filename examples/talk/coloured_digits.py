"""Coloured digits: what ERM, IRM and IRM games make of a colour that misleads, and what a look at grey images would.

    python examples/talk/coloured_digits.py [--output runs/talk] [--restarts 10] [--source digits] [--root FOLDER]

Colours are right in 80 and 90 % of training and in 10 % of the test environment, labels in 75 %. Prints test accuracies
in percent, mean ± standard deviation over restarts, each with its own split, noise and weights: at the step, from the
100th on, that the test environment itself chooses, as the paper does; at the one that the training environments choose,
by parts that are not trained on; and at the last one. Beside them are the papers' numbers, on MNIST. Of scikit-learn's
digits there are 20 copies each, with noise of their own. Settings were chosen by seed 100, on the test environment.
`--source mnist` takes MNIST from `--root`, by default where `lightning-lead fetch mnist` put it. Every run is kept in
`coloured_digits/` and not made again; `--table` prints those that are there, and `--fast` sees that it runs.

References: Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", 2019, section 5.2; Ahuja et al.,
"Invariant Risk Minimization Games", ICML 2020 (who stop early, where training accuracy falls); Gulrajani and Lopez-Paz,
"In Search of Lost Domain Generalization", ICLR 2021 (about 10 % for all methods when selected by training domains).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from drawing import parser_of
from pytorch_lightning import seed_everything
from torch import nn
from training import quiet, silent_trainer

from lightning_lead import ColouredDigitsDataModule, DomainAccuracy, ERMModule, IRMGamesModule, IRMv1Module
from lightning_lead._files import write_json
from lightning_lead.networks import MLP

EVERY = 5  # steps between looks
CHOSEN_FROM = 100  # the first step that may be chosen: an untrained network at chance would win over one that is misled


class Source(NamedTuple):
    """The digits, and what fits their number."""

    pixels: int
    copies: int
    width: int
    steps: int


SOURCES = {"digits": Source(64, 20, 64, 300), "mnist": Source(196, 1, 256, 500)}


class Method(NamedTuple):
    """One row."""

    make: Callable[[Callable[[], nn.Module]], Any]  # of what makes a network
    published: str
    grey: bool = False


def _adam(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups)


SHARED: dict[str, Any] = {"optimizer": _adam, "learning_rates": 1e-3}
METHODS = {
    "ERM": Method(lambda network: ERMModule(network(), l2=1e-3, **SHARED), "17.1 ± 0.6"),
    "IRMv1": Method(
        lambda network: IRMv1Module(network(), penalty=1e4, anneal_steps=100, l2=1e-3, **SHARED), "66.9 ± 2.5"
    ),
    "IRM games": Method(lambda network: IRMGamesModule([network(), network()], **SHARED), "59.9 ± 2.7"),
    "ERM on grey digits, the oracle": Method(
        lambda network: ERMModule(network(), l2=1e-3, **SHARED), "73.0 ± 0.4", grey=True
    ),
}


def trained(method: Method, seed: int, steps: int, data: dict[str, Any], source: Source) -> list[dict[str, Any]]:
    """The records of a run."""
    seed_everything(seed, verbose=False)
    inputs = source.pixels * (1 if method.grey else 2)
    module = method.make(lambda: MLP(inputs, 1, width=source.width, depth=2))
    looks = DomainAccuracy(every_n_steps=EVERY)
    trainer = silent_trainer(steps, looks)
    trainer.fit(module, datamodule=ColouredDigitsDataModule(grey=method.grey, seed=seed, **data))
    return looks.history


def records_of(
    label: str, seed: int, steps: int, data: dict[str, Any], folder: Path, *, make: bool
) -> list[dict[str, Any]]:
    """The records of a run, made if they are not in the folder and may be."""
    name, kind = label.split(",")[0].lower().replace(" ", "-"), data["source"]
    path = folder / f"{kind}-{name}-steps{steps}-seed{seed}.json"
    if not path.is_file():
        if not make:
            return []
        history = trained(METHODS[label], seed, steps, data, SOURCES[kind])
        write_json(path, {"label": label, "seed": seed, "data": data, "history": history})
        print(path, {name: round(value, 3) for name, value in history[-1]["values"].items()}, flush=True)
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["history"]
    return found


COLUMNS = ("selected on test", "selected on validation", "at the last step", "training domains, at the last step")


def accuracies(history: Sequence[dict[str, Any]]) -> tuple[float, ...]:
    """The four numbers of a run, in the order of `COLUMNS`."""
    late = [r["values"] for r in history if r["step"] >= CHOSEN_FROM] or [r["values"] for r in history]
    test, validation = "accuracy/held_out", "accuracy/average"
    chosen = max(late, key=lambda values: values[validation])
    return max(values[test] for values in late), chosen[test], late[-1][test], late[-1][validation]


def table(rows: dict[str, Sequence[list[dict[str, Any]]]], source: str) -> str:
    """Accuracies in percent, in Markdown."""
    heads = [f"test accuracy, coloured {source}", *COLUMNS, "published, on test (MNIST)"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label, runs in rows.items():
        cells = [_spread([100 * value for value in column]) for column in zip(*map(accuracies, runs), strict=True)]
        lines.append("| " + " | ".join([label, *cells, METHODS[label].published]) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Train, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--restarts", type=int, default=10, help="seeds 0, 1, … (default: %(default)s)")
    parser.add_argument("--source", choices=SOURCES, default="digits", help="default: %(default)s")
    parser.add_argument("--root", default=None, help="torchvision's folder, of MNIST")
    parser.add_argument("--table", action="store_true", help="make no run, print those that are there")
    options = parser.parse_args()
    quiet()
    source, copies = SOURCES[options.source], SOURCES[options.source].copies
    folder = options.output / ("coloured_digits_fast" if options.fast else "coloured_digits")
    folder.mkdir(parents=True, exist_ok=True)
    steps, restarts = (2 * EVERY, 1) if options.fast else (source.steps, options.restarts)
    data = {"source": options.source, "copies": 1 if options.fast else copies}
    if options.source == "mnist":
        data |= {"root": options.root}
    rows: dict[str, list[list[dict[str, Any]]]] = {}
    for seed in range(restarts):  # an early look has all rows of the first seed
        for label in METHODS:
            if history := records_of(label, seed, steps, data, folder, make=not options.table):
                rows.setdefault(label, []).append(history)
    if rows:
        print(table(rows, options.source), flush=True)


if __name__ == "__main__":
    main()

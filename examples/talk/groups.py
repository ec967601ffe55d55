"""Groups of label and colour, two of them rare: the worst group's accuracy under ERM and under group DRO.

    python examples/talk/groups.py [--output runs/talk] [--seeds 0 1 2 3 4]

One tenth of the digits have the other colour than their label's. Prints accuracies in percent, mean ± standard
deviation over seeds, at the step with the best worst group of the validation part: of that group and of the groups'
average, both on the part that has chosen the step, and of the test environment, in which nine of ten colours are the
other one. Every run is kept in `groups/` and not made again; `--fast` sees that it runs.

Reference: Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from drawing import parser_of
from pytorch_lightning import seed_everything
from training import quiet, silent_trainer

from lightning_lead import ColouredDigitsDataModule, DomainAccuracy, ERMModule, GroupDROModule
from lightning_lead._files import write_json
from lightning_lead.networks import MLP

EVERY, STEPS = 20, 600


def _sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=0.9)


METHODS: dict[str, Callable[[], Any]] = {
    "ERM": lambda: ERMModule(MLP(128, 1), num_groups=4, optimizer=_sgd, learning_rates=0.1),
    "group DRO, η = 0.01": lambda: GroupDROModule(MLP(128, 1), 4, step=0.01, optimizer=_sgd, learning_rate=0.1),
    "group DRO, η = 0.05": lambda: GroupDROModule(MLP(128, 1), 4, step=0.05, optimizer=_sgd, learning_rate=0.1),
    "group DRO, η = 0.2": lambda: GroupDROModule(MLP(128, 1), 4, step=0.2, optimizer=_sgd, learning_rate=0.1),
}
NOISES = (0.0, 0.1)  # of labels


def history_of(label: str, noise: float, seed: int, steps: int, folder: Path) -> list[dict[str, Any]]:
    """The records of a run, made if they are not in the folder."""
    name = label.lower().replace(",", "").replace(" ", "-").replace("η", "step").replace("=-", "")
    path = folder / f"{name}-noise{noise:g}-steps{steps}-seed{seed}.json"
    if not path.is_file():
        seed_everything(seed, verbose=False)
        module, looks = METHODS[label](), DomainAccuracy(every_n_steps=EVERY, select="worst")
        trainer = silent_trainer(steps, looks)
        settings: dict[str, Any] = {"flips": (0.1,), "label_noise": noise, "groups": "label_colour"}
        trainer.fit(module, datamodule=ColouredDigitsDataModule(batch_size=128, seed=seed, **settings))
        write_json(path, {"label": label, "noise": noise, "seed": seed, "history": looks.history})
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["history"]
    return found


def cells(runs: list[list[dict[str, Any]]]) -> list[str]:
    """Accuracies at the step with the best worst group, in percent."""
    best = [max((record["values"] for record in history), key=lambda v: v["accuracy/worst"]) for history in runs]
    found = []
    for name in ("worst", "average", "held_out"):
        values = [100 * values[f"accuracy/{name}"] for values in best]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        found.append(f"{statistics.fmean(values):.1f}{spread}")
    return found


def main() -> None:
    """Train, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    quiet()
    folder = options.output / ("groups_fast" if options.fast else "groups")
    folder.mkdir(parents=True, exist_ok=True)
    steps, seeds = (2 * EVERY, [0]) if options.fast else (STEPS, options.seeds)
    for noise in NOISES:
        heads = [f"label noise {noise:.0%}", "worst group", "average of groups", "test environment"]
        print("| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", sep="\n")
        for label in METHODS:
            runs = [history_of(label, noise, seed, steps, folder) for seed in seeds]
            print("| " + " | ".join([label, *cells(runs)]) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()

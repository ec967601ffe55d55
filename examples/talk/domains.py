"""Domain-adversarial digits: a game in which one gradient at an extrapolated opponent is not the exact cross term.

    python examples/talk/domains.py [--output runs/talk] [--seeds 0 1 2 3 4] [--parts relu tanh ...] [--fast]

A feature network and a classifier learn labelled digits, and the features are to hide from a second player which ones
are distorted digits, of which no label is known:

    L_features = CE(labels of the digits) − λ · CE(domains),      L_domains = CE(domains),      λ = 1.

Prints the share of distorted digits that are classified as what they are, averaged over the last quarter of a run, as
tables in Markdown, a row per method. Every run is kept in `domains/` and not made again.

Reference: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from drawing import parser_of
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import affine_grid, binary_cross_entropy_with_logits, cross_entropy, grid_sample
from torch.utils.data import DataLoader, IterableDataset
from training import quiet

from lightning_lead import DivergenceError, LeadModule
from lightning_lead._files import write_json
from lightning_lead.data import DigitsDataModule

WIDTH = 64
EVERY = 10  # game steps between looks at the accuracy


def distorted(images: Tensor) -> Tensor:
    """Digits (n, 1, 8, 8) in [−1, 1], turned by 0.4 rad, pale and noisy: always the same for the same digits.

    Chosen once, by plain play of two seeds at momentum 0 and 0.9, so that without momentum the domains meet.
    """
    cos, sin = math.cos(0.4), math.sin(0.4)
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(images), 2, 3)
    paper = images.amin()
    moved = grid_sample(images - paper, affine_grid(turn, list(images.shape), align_corners=False), align_corners=False)
    drawn = torch.randn(moved.shape, generator=torch.Generator().manual_seed(0))
    return (0.5 * (moved + paper) + 0.3 + 0.3 * drawn).clamp(-1, 1)


class Domains(NamedTuple):
    """Digits with labels, and distorted other digits, whose labels are for the score alone."""

    source: Tensor  # (n, 64)
    labels: Tensor  # (n,)
    target: Tensor  # (m, 64)
    hidden: Tensor  # (m,)


def load() -> Domains:
    """Every second digit as it is, the others distorted."""
    images, labels = DigitsDataModule().tensors()
    return Domains(images[::2].flatten(1), labels[::2], distorted(images[1::2]).flatten(1), labels[1::2])


class Batches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Digits, their labels, and as many distorted digits, drawn independently."""

    def __init__(self, domains: Domains, *, size: int, seed: int) -> None:
        self.domains, self.size, self.seed = domains, size, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        drawn = torch.Generator().manual_seed(self.seed)
        source, labels, target, _ = self.domains
        while True:
            here = torch.randint(len(source), (self.size,), generator=drawn)
            there = torch.randint(len(target), (self.size,), generator=drawn)
            yield source[here], labels[here], target[there]


class DomainAdversarial(LeadModule):
    """Features and classifier against a domain classifier, MLPs of one hidden layer each."""

    def __init__(self, *, activation: type[nn.Module] = nn.ReLU, weight: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.features = nn.Sequential(nn.Linear(64, WIDTH), activation(), nn.Linear(WIDTH, WIDTH), activation())
        self.classifier = nn.Linear(WIDTH, 10)
        self.domains = nn.Sequential(nn.Linear(WIDTH, WIDTH), activation(), nn.Linear(WIDTH, 1))
        self.weight = weight

    def players(self) -> Mapping[str, Any]:
        return {
            "features": [*self.features.parameters(), *self.classifier.parameters()],
            "domains": self.domains.parameters(),
        }

    def player_losses(self, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        source, labels, target = batch
        features = self.features(torch.cat([source, target]))
        logits = self.domains(features).squeeze(1)
        came_from = torch.zeros_like(logits)
        came_from[: len(source)] = 1.0
        confusion = binary_cross_entropy_with_logits(logits, came_from)
        own = cross_entropy(self.classifier(features[: len(source)]), labels)
        return {"features": own - self.weight * confusion, "domains": confusion}

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images that are classified as what they are."""
        return (self.classifier(self.features(images)).argmax(1) == labels).float().mean().item()


class Accuracy(Callback):
    """The accuracy on distorted digits now and then."""

    def __init__(self, domains: Domains) -> None:
        self.domains = domains
        self.curve: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % EVERY == 0:
            self.curve.append((trainer.global_step, pl_module.accuracy(self.domains.target, self.domains.hidden)))


class Setting(NamedTuple):
    """One line of a table at one momentum."""

    game: str  # as `lightning_lead.engine.named_rules.find_game` takes it
    momentum: float
    activation: str = "ReLU"
    optimizer: str = "SGD"  # or Adam, with betas (momentum, 0.999)
    rate: float = 0.2  # SGD's is this times 1 − momentum
    batch: int = 128
    clip: float | None = None

    def make(self, groups: Any) -> torch.optim.Optimizer:
        """The optimizer of both players."""
        if self.optimizer == "Adam":
            return torch.optim.Adam(groups, lr=self.rate, betas=(self.momentum, 0.999))
        return torch.optim.SGD(groups, lr=self.rate * (1 - self.momentum), momentum=self.momentum)


def module_of(setting: Setting, game: Any, seed: int) -> DomainAdversarial:
    """Both players as the seed starts them."""
    seed_everything(seed, verbose=False)
    activation = getattr(nn, setting.activation)
    rate = setting.rate if setting.optimizer == "Adam" else setting.rate * (1 - setting.momentum)
    return DomainAdversarial(
        activation=activation, game=game, optimizer=setting.make, learning_rates=rate, clip=setting.clip
    )


def trained(module: DomainAdversarial, setting: Setting, seed: int, steps: int) -> list[tuple[int, float]]:
    """The accuracy along a run; of one that diverges, up to there and then that of guessing."""
    domains = load()
    looks = Accuracy(domains)
    quietly = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[looks],
        enable_checkpointing=False,
        log_every_n_steps=250,
        **quietly,
    )
    try:
        trainer.fit(module, DataLoader(Batches(domains, size=setting.batch, seed=seed), batch_size=None))
    except DivergenceError:
        looks.curve += [(step, 0.1) for step in range(len(looks.curve) * EVERY + EVERY, steps + 1, EVERY)]
    return looks.curve


def score(setting: Setting, seed: int, steps: int, folder: Path) -> float:
    """The mean accuracy over the last quarter of a run, which is made if it is not in the folder."""
    words = [str(value) for value in (*setting, steps, f"seed{seed}") if value is not None]
    name = re.sub(r"[^a-zA-Z0-9.=]+", "-", "-".join(words))
    path = folder / f"{name}.json"
    if not path.is_file():
        module = module_of(setting, setting.game, seed)
        curve = trained(module, setting, seed, steps)
        write_json(path, {"setting": setting._asdict(), "seed": seed, "accuracy": curve})
        print(path, f"{_last_quarter(curve):.3f}", flush=True)
    return _last_quarter(json.loads(path.read_text())["accuracy"])


def _last_quarter(curve: Sequence[tuple[int, float]]) -> float:
    end = curve[-1][0]
    return statistics.fmean(accuracy for step, accuracy in curve if step > 0.75 * end)


def methods(momentum: float) -> dict[str, str]:
    """Label -> game; a = 1/(1 − β) is 10 at a momentum of 0.9."""
    games = {"plain play": "AlternatingGDA", "optimistic gradient": "OptimisticGradient"}
    for cross in ("exact", "difference", "extrapolated"):  # the exact term's two forms are one in this game
        games[f"LEAD {cross}, a = 1/(1 − β)"] = f"LEAD(coupling={1 / (1 - momentum):.6g}, cross='{cross}')"
        games[f"LEAD {cross}, auto"] = f"LEAD(coupling='auto', cross='{cross}')"
    games["LEAD by the form that checks itself, auto"] = "LEAD(coupling='auto', cross='auto')"
    return games


class Part(NamedTuple):
    """One table."""

    title: str
    columns: dict[str, Setting]  # its game is replaced


PARTS = {
    "relu": Part("ReLU, SGD at a rate of 0.02", {"β = 0.9": Setting("", 0.9)}),
    "still": Part("ReLU, SGD at a rate of 0.2", {"β = 0": Setting("", 0.0)}),
    "tanh": Part("tanh, SGD at a rate of 0.02", {"β = 0.9": Setting("", 0.9, activation="Tanh")}),
    "clipped": Part("ReLU, SGD at a rate of 0.02, directions of at most 1", {"β = 0.9": Setting("", 0.9, clip=1.0)}),
    "adam": Part(
        "ReLU, Adam with betas (0.9, 0.999)",
        {f"rate {rate:g}": Setting("", 0.9, optimizer="Adam", rate=rate) for rate in (1e-3, 3e-3)},
    ),
}


def table(part: Part, seeds: Sequence[int], steps: int, folder: Path) -> str:
    """Means and standard deviations over seeds, in Markdown."""
    lines = ["| " + " | ".join([part.title, *part.columns]) + " |", "|---" * (1 + len(part.columns)) + "|"]
    for label in methods(0.9):
        cells = [label]
        for column in part.columns.values():
            setting = column._replace(game=methods(column.momentum)[label])
            scores = [score(setting, seed, steps, folder) for seed in seeds]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.fmean(scores):.3f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Play, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    quiet()
    steps, folder = 1000, options.output / "domains"
    if options.fast:
        steps, folder, options.seeds = 2 * EVERY, options.output / "domains_fast", [0]
        options.parts = options.parts[:1]
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        print(table(PARTS[name], options.seeds, steps, folder), end="\n\n", flush=True)


if __name__ == "__main__":
    main()

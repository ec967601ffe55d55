"""Catastrophic overfitting of training by one step: does LEAD prevent it, and at which price?

    python examples/talk/overfitting.py [--output runs/talk] [--seeds 0 1 2] [--rows NAME ...] [--fast]

A network that is trained against one step of the attack (FGSM) learns to hide from that step: its accuracy under FGSM
is high, and under an attack of many steps it is zero. LEAD's cross term of the network is a directional derivative
behind the attack's end δ₁, along the way Δ = δ₁ − δ₀ that the attack has gone on this batch:

    d_θ = ∇_θ [CE(x + δ₁) + a·⟨∇_δ CE(x + δ₁), Δ⟩]   ≈ ∇_θ CE(x + δ₁ + a·Δ).

Scikit-learn's digits, ε = 0.75 on images in [−1, 1], a small convolutional network with batch norm, SGD. Prints a table
in Markdown: accuracies at the end, on 397 images that were not trained on; the best one under PGD-10 of any epoch and
the epoch from which on it stays below 5 %, on the first 128 of them; and FLOPs of a game step relative to FGSM in plain
play. Every run is kept in `overfitting/` and not made again.

References: Wong, Rice and Kolter, "Fast is better than free", ICLR 2020; Andriushchenko and Flammarion, "Understanding
and Improving Fast Adversarial Training", NeurIPS 2020 (GradAlign).
"""

from __future__ import annotations

import functools
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from drawing import parser_of
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset
from training import quiet

from lightning_lead import DivergenceError, RobustModule
from lightning_lead._files import write_json
from lightning_lead.compare._flops import counted_flops
from lightning_lead.data import DigitsDataModule
from lightning_lead.networks import SmallConvClassifier
from lightning_lead.robust import AbstractRobustLoss, AttackSuite, FGSMAttack, PGDAttack

EPSILON, WIDTH, RATE, BATCH, HELD_OUT, FEW = 0.75, 32, 0.05, 64, 397, 128


class GradAlign(AbstractRobustLoss):
    """Cross-entropy, and λ·(1 − cos(∇_x CE(x), ∇_x CE(x + η))), η uniform in the ball."""

    def __init__(self, weight: float, epsilon: float) -> None:
        self.weight, self.epsilon = weight, epsilon

    def network_loss(self, network: Any, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        noise = torch.empty_like(images).uniform_(-self.epsilon, self.epsilon)
        slopes = []
        for at in (images, images + noise):
            at = at.detach().requires_grad_()
            loss = cross_entropy(network(at), labels)
            slopes.append(torch.autograd.grad(loss, at, create_graph=True)[0].flatten(1))
        apart = 1 - cosine_similarity(*slopes, dim=1).mean()
        return cross_entropy(network(perturbed), labels) + self.weight * apart

    def attack_loss(self, network: Any, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        return -cross_entropy(network(perturbed), labels)


class Row(NamedTuple):
    """A way to train."""

    steps: int = 1
    random_start: bool = False
    game: str = "AlternatingGDA"
    step: float = 1.0  # of the attack, in units of ε
    align: float = 0.0

    def module(self) -> RobustModule:
        """The players, as torch's generator starts them."""
        if self.steps == 1:
            attack: Any = FGSMAttack(EPSILON, step_size=self.step * EPSILON, random_start=self.random_start)
        else:
            attack = PGDAttack(EPSILON, step_size=self.step * EPSILON, steps=self.steps)
        return RobustModule(
            SmallConvClassifier(width=WIDTH),
            attack,
            loss=GradAlign(self.align, EPSILON) if self.align else "cross_entropy",
            learning_rate=RATE,
            game=self.game,
        )


def lead(coupling: float, *, cross: str = "exact") -> str:
    """The network's own form: its attack is made in eval mode, so that the attack's loss is another function."""
    form = ", form='own'" if cross == "exact" else ""
    return f"LEAD(coupling={coupling:g}, cross={cross!r}{form})"


ROWS = {
    "FGSM from zero, plain": Row(),
    "FGSM from zero, LEAD exact, a = 0.5": Row(game=lead(0.5)),
    "FGSM from zero, LEAD extrapolated, a = 1": Row(game=lead(1.0, cross="extrapolated")),
    "PGD-2, plain": Row(steps=2, random_start=True, step=0.7),
    "FGSM, random start, plain": Row(random_start=True, step=1.25),
    "FGSM, random start, LEAD exact, a = 0.5": Row(random_start=True, step=1.25, game=lead(0.5)),
    "FGSM, random start, LEAD extrapolated, a = 1": Row(
        random_start=True, step=1.25, game=lead(1.0, cross="extrapolated")
    ),
    "FGSM from zero, GradAlign, λ = 0.5": Row(align=0.5),
    "FGSM from zero, LEAD exact, a = 0.1": Row(game=lead(0.1)),
    "FGSM from zero, LEAD exact, a = 1": Row(game=lead(1.0)),
    "FGSM from zero, GradAlign, λ = 2": Row(align=2.0),
    "FGSM from zero, step ε/2, plain": Row(step=0.5),
    "FGSM from zero, step ε/2, LEAD extrapolated, a = 1": Row(step=0.5, game=lead(1.0, cross="extrapolated")),
}


def digits() -> tuple[TensorDataset, Tensor, Tensor]:
    """Training data, and images and labels that are held out; always the same."""
    data = DigitsDataModule(held_out=HELD_OUT)
    training, held_out = data.train_dataset(), data.val_dataset()
    assert isinstance(training, TensorDataset)
    assert isinstance(held_out, TensorDataset)
    images, labels = held_out.tensors
    return training, images, labels


class Looks(Callback):
    """Accuracies on some images after each epoch."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images[:FEW], labels[:FEW]
        self.suite = AttackSuite(["fgsm", "pgd-10"], epsilon=EPSILON)
        self.curve: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.curve.append(self.suite.measure(pl_module, self.images, self.labels))


@functools.cache
def flops(row: Row) -> int:
    """Of one game step, the second one: in the first nobody has moved."""
    seed_everything(0, verbose=False)
    module, (data, *_) = row.module(), digits()
    counts = []
    step = module.training_step

    def counted(*batch: Any) -> None:
        counts.append(counted_flops(lambda: step(*batch)))

    module.training_step = counted  # type: ignore[method-assign]
    trainer_of(2).fit(module, DataLoader(data, BATCH))
    return int(counts[-1])


def trainer_of(steps: int, *callbacks: Callback) -> Trainer:
    """One that says nothing."""
    quietly: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_steps=steps, accelerator="cpu", callbacks=[*callbacks], enable_checkpointing=False, **quietly)


def result_of(name: str, seed: int, epochs: int, folder: Path, *, few: bool = False) -> dict[str, Any]:
    """A run's curve, which is made if it is not in the folder; with `few`, of three batches an epoch."""
    row = ROWS[name]
    words = re.sub(r"[^a-zA-Z0-9.=]+", "-", name).strip("-")
    path = folder / f"{words}-{epochs}-seed{seed}.json"
    if not path.is_file():
        seed_everything(seed, verbose=False)
        data, images, labels = digits()
        images, labels = (images[:16], labels[:16]) if few else (images, labels)
        looks, module = Looks(images, labels), row.module()
        shuffled = torch.Generator().manual_seed(seed)
        part = Subset(data, range(3 * BATCH)) if few else data
        feed: DataLoader[Any] = DataLoader(part, BATCH, shuffle=True, drop_last=True, generator=shuffled)
        diverged = False
        try:
            trainer_of(epochs * len(feed), looks).fit(module, feed)
        except DivergenceError:
            diverged = True
        end = AttackSuite(["fgsm", "pgd-20"], epsilon=EPSILON).measure(module, images, labels)
        found = {"row": row._asdict(), "seed": seed, "end": end, "curve": looks.curve, "diverged": diverged}
        write_json(path, found)
        print(path, {key: round(value, 3) for key, value in end.items()}, flush=True)
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def collapse(curve: Sequence[dict[str, float]]) -> int | None:
    """The epoch from which on the accuracy under PGD-10 stays below 5 %; None if it does not at the end."""
    found = None
    for epoch, look in enumerate(curve, 1):
        low = look["robust_accuracy/pgd-10"] < 0.05
        found = (epoch if found is None else found) if low else None
    return found


def table(names: Sequence[str], seeds: Sequence[int], epochs: int, folder: Path) -> str:
    """Means and standard deviations over seeds, in Markdown."""
    head = ["training", "clean", "FGSM", "PGD-20", "best PGD-10", "collapse at epoch", "FLOPs"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    plain = flops(ROWS["FGSM from zero, plain"])
    for name in names:
        results = [result_of(name, seed, epochs, folder) for seed in seeds]
        keys = ["clean_accuracy", "robust_accuracy/fgsm", "robust_accuracy/pgd-20"]
        cells = [_spread([result["end"][key] for result in results]) for key in keys]
        curves = [result["curve"] for result in results]
        cells.append(_spread([max((look["robust_accuracy/pgd-10"] for look in curve), default=0) for curve in curves]))
        cells.append(", ".join(str(collapse(curve) or "none") for curve in curves))
        lines.append("| " + " | ".join([name, *cells, f"{flops(ROWS[name]) / plain:.2f}"]) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def main() -> None:
    """Train, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    options = parser.parse_args()
    quiet()
    epochs, folder = 30, options.output / "overfitting"
    if options.fast:
        epochs, folder, options.seeds = 1, options.output / "overfitting_fast", [0]
        options.rows = options.rows[:2]
    folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:  # all rows of a seed, so that a run that is stopped can be looked at
        for name in options.rows:
            result_of(name, seed, epochs, folder, few=options.fast)
    print(table(options.rows, options.seeds, epochs, folder), flush=True)


if __name__ == "__main__":
    main()

"""Adversarial training by `RobustModule` and by a loop without this package, judged by AutoAttack; pictures of attacks.

    python examples/talk/robust.py [--output runs/talk] [--seeds 0 1 2] [--cifar10] [--steps N] [--judged N] [--fast]

PGD and TRADES training of a small convolutional network on scikit-learn's digits (ε = 0.3 on images in [−1, 1], 5
steps; 1,400 images to train on, 200 others to judge by), or of a narrow pre-activation ResNet on CIFAR-10 (ε = 8/255 of
the range, 10 steps). The loop has the same weights, batches and random starts. Prints, in Markdown, the accuracies of
both under the standard ensemble of pyautoattack, and the largest difference of their weights. Where a gradient is
nearly zero rounding decides a sign, so the loop has the formulas in one form with the library. Without --cifar10 it
also draws

    robust_epsilon.png       accuracy under APGD against ε: trained plainly, by PGD, by TRADES
    robust_universal.png     a universal perturbation, which plays against its network, and what it does to digits
    robust_patch.png         a patch, likewise

Every judged run is kept in `robust/` and not made again. Needs the extra `lightning-lead[robust]`.
"""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from drawing import parser_of, save
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.data import DataLoader, Dataset
from training import quiet

from lightning_lead import RobustModule
from lightning_lead._files import write_json
from lightning_lead.calculus import mix_seed, private_rng
from lightning_lead.data import CIFAR10DataModule, DigitsDataModule
from lightning_lead.networks import PreActResNet, SmallConvClassifier
from lightning_lead.robust import AbstractAttack, AttackSuite, Patch, PGDAttack, UniversalPerturbation


class Setting:
    """A data set, its network, and the attack that it is trained against."""

    def __init__(self, *, cifar10: bool, steps: int | None, judged: int | None) -> None:
        self.name = "cifar10" if cifar10 else "digits"
        self.epsilon, self.attack_steps = (16 / 255, 10) if cifar10 else (0.3, 5)
        self.step_size = 2.5 * self.epsilon / self.attack_steps
        self.rate, self.batch = (0.1, 128) if cifar10 else (0.05, 64)
        self.steps = steps or (2000 if cifar10 else 600)
        self.judged = judged or (1000 if cifar10 else 200)
        self._data: Any = None

    def network(self) -> nn.Module:
        """As the seed starts it."""
        return PreActResNet(width=8) if self.name == "cifar10" else SmallConvClassifier()

    def attack(self) -> PGDAttack:
        """The attack of the training."""
        return PGDAttack(self.epsilon, step_size=self.step_size, steps=self.attack_steps)

    def datasets(self) -> tuple[Dataset[Any], Tensor, Tensor]:
        """Training data, and images and labels to judge by."""
        if self._data is None:
            if self.name == "cifar10":
                data: Any = CIFAR10DataModule(reference="test")
            else:
                data = DigitsDataModule(held_out=397)
            held_out = next(iter(DataLoader(data.val_dataset(), self.judged, collate_fn=collation(data))))
            self._data = data.train_dataset(), held_out[0], held_out[1], collation(data)
        return self._data[0], self._data[1], self._data[2]

    def batches(self, seed: int) -> DataLoader[Any]:
        """All batches of a run, in the same order for the same seed, however they are read."""
        drawn, (data, *_) = torch.Generator().manual_seed(seed), self.datasets()
        size = len(data)  # type: ignore[arg-type]
        rows: list[list[int]] = []
        while len(rows) < self.steps:
            order = torch.randperm(size, generator=drawn)
            rows += order[: size // self.batch * self.batch].view(-1, self.batch).tolist()
        return DataLoader(data, batch_sampler=rows[: self.steps], collate_fn=self._data[3])


def collation(data: Any) -> Any:
    """The collation by which a data module makes batches."""
    return data.loader_settings().get("collate_fn")


def make_optimizer(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """That of the network, in both ways of training."""
    return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4)


def by_module(setting: Setting, network: nn.Module, loss: str, seed: int) -> RobustModule:
    """Train a network by `RobustModule`."""
    module = RobustModule(
        network,
        setting.attack(),
        loss=loss,
        learning_rate=setting.rate,
        optimizer=lambda groups: make_optimizer(groups, setting.rate),
    )
    fit(module, setting.steps, setting.batches(seed))
    return module


def fit(module: RobustModule, steps: int, feed: DataLoader[Any]) -> None:
    """Train without a word."""
    quietly: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(max_steps=steps, accelerator="cpu", enable_checkpointing=False, **quietly).fit(module, feed)


def by_loop(setting: Setting, network: nn.Module, loss: str, seed: int, noise_seed: int) -> nn.Module:
    """Train a network as the papers' code does; the numbers of a step's random start are those of the module's."""
    optimizer = make_optimizer(network.parameters(), setting.rate)
    for step, (x, y) in enumerate(setting.batches(seed)):
        low, high = (-1 - x).clamp(min=-setting.epsilon), (1 - x).clamp(max=setting.epsilon)
        with private_rng(mix_seed(noise_seed, 0, step)):
            if loss == "trades":
                delta = 0.001 * torch.randn_like(x)
            else:
                delta = torch.empty_like(x).uniform_(-setting.epsilon, setting.epsilon)
        delta = torch.minimum(torch.maximum(delta, low), high)
        network.eval()
        for _ in range(setting.attack_steps):
            delta.requires_grad_()
            logits = network(x + delta)
            if loss == "trades":
                value = divergence(network(x), logits)
            else:
                value = cross_entropy(logits, y)
            (slope,) = torch.autograd.grad(value, delta)
            delta = torch.minimum(torch.maximum(delta.detach() + setting.step_size * slope.sign(), low), high)
        network.train()
        optimizer.zero_grad()
        if loss == "trades":
            clean = network(x)
            (cross_entropy(clean, y) + 6.0 * divergence(clean, network(x + delta))).backward()
        else:
            cross_entropy(network(x + delta), y).backward()
        optimizer.step()
    return network


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(softmax clean ‖ softmax attacked), a mean over images."""
    logs = log_softmax(attacked, 1), log_softmax(clean, 1)
    return kl_div(*logs, reduction="none", log_target=True).sum(1).mean()


def judged(setting: Setting, network: nn.Module) -> dict[str, float]:
    """Accuracies under the ensemble of the other library."""
    _, images, labels = setting.datasets()
    suite = AttackSuite(["pgd-20", "autoattack"], epsilon=setting.epsilon, batch_size=500)
    return suite.measure(network, images[: setting.judged], labels[: setting.judged])


def both(setting: Setting, loss: str, seed: int, folder: Path) -> dict[str, Any]:
    """The record of one seed, which is made if it is not in the folder."""
    path = folder / f"{setting.name}-{loss}-{setting.steps}-{setting.judged}-seed{seed}.json"
    if not path.is_file():
        seed_everything(seed, verbose=False)
        start = setting.network()
        module = by_module(setting, copy.deepcopy(start), loss, seed)
        twin = by_loop(setting, copy.deepcopy(start), loss, seed, module._noise_seed or 0)
        pairs = zip(module.network.parameters(), twin.parameters(), strict=True)
        apart = max(float((a - b).detach().abs().max()) for a, b in pairs)
        write_json(path, {"module": judged(setting, module), "loop": judged(setting, twin), "weights_apart": apart})
        print(path, flush=True)
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def table(setting: Setting, seeds: list[int], folder: Path) -> str:
    """Means and standard deviations over seeds, in Markdown."""
    head = [f"{setting.name}, ε = {setting.epsilon:.3g}", "by", "clean", "PGD-20", "AutoAttack", "weights apart"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for loss, label in (("cross_entropy", f"PGD-{setting.attack_steps}"), ("trades", "TRADES, β = 6")):
        records = [both(setting, loss, seed, folder) for seed in seeds]
        for way in ("module", "loop"):
            keys = ("clean_accuracy", "robust_accuracy/pgd-20", "robust_accuracy/autoattack")
            cells = [_spread([record[way][key] for record in records]) for key in keys]
            apart = f"{max(record['weights_apart'] for record in records):.1e}" if way == "module" else "–"
            lines.append("| " + " | ".join([label, way, *cells, apart]) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


# ---- pictures --------------------------------------------------------------------------------------------------------


def draw_epsilon(setting: Setting, folder: Path, *, points: int) -> None:
    """Accuracy against ε of three networks."""
    _, images, labels = setting.datasets()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    sizes = [setting.epsilon * 2 * k / points for k in range(points + 1)]
    for label, loss in (("trained plainly", None), ("PGD", "cross_entropy"), ("TRADES", "trades")):
        seed_everything(0, verbose=False)
        if loss is None:
            network = setting.network()
            optimizer = make_optimizer(network.parameters(), setting.rate)
            for x, y in setting.batches(0):
                optimizer.zero_grad()
                cross_entropy(network(x), y).backward()
                optimizer.step()
        else:
            network = by_module(setting, setting.network(), loss, 0)
        accuracies = []
        for size in sizes:
            suite = AttackSuite(["apgd-ce-20"], epsilon=max(size, 1e-6), batch_size=500)
            accuracies.append(suite.measure(network, images, labels)["robust_accuracy/apgd-ce-20"])
        axes.plot(sizes, accuracies, lw=2, label=label)
    axes.axvline(setting.epsilon, color="grey", lw=1, ls=":")
    axes.set(xlabel="ε, of images in [−1, 1]", ylabel="accuracy under APGD, 20 steps", ylim=(0, 1))
    axes.legend(frameon=False)
    save(figure, folder, "robust_epsilon")


def draw_attack(setting: Setting, attack: AbstractAttack, name: str, folder: Path) -> None:
    """An attack that has played against its network, and images with it; classes that it has got wrong in red."""
    seed_everything(0, verbose=False)
    victim = setting.network()
    optimizer = make_optimizer(victim.parameters(), setting.rate)
    for x, y in setting.batches(1):  # a network that has met no attack
        optimizer.zero_grad()
        cross_entropy(victim(x), y).backward()
        optimizer.step()
    module = RobustModule(
        setting.network(), attack, learning_rate=setting.rate, game="LEAD(coupling=1.0, cross='extrapolated')"
    )
    fit(module, setting.steps, setting.batches(0))
    _, images, labels = setting.datasets()
    with torch.no_grad(), private_rng(0):
        attacked = attack(images, None, (-1.0, 1.0))
        answers = {"met none": victim.eval()(attacked), "played": module.eval()(attacked)}
    shown = getattr(attack, "delta", None)
    shown = attack.pixels if shown is None else shown
    figure, axes = plt.subplots(1, 9, figsize=(11, 2.2), layout="constrained")
    axes[0].imshow(shown.detach()[0], cmap="grey")
    axes[0].set_title("the attack", fontsize=9)
    for k, cell in enumerate(axes[1:]):
        cell.imshow(attacked[k, 0], cmap="grey", vmin=-1, vmax=1)
        found = {who: int(logits[k].argmax()) for who, logits in answers.items()}
        cell.set_title(f"{found['met none']} / {found['played']}", fontsize=9)
        if found["met none"] != int(labels[k]):
            cell.title.set_color("red")
    for cell in axes:
        cell.set_axis_off()
    rates = {who: float((logits.argmax(1) == labels).float().mean()) for who, logits in answers.items()}
    figure.suptitle(
        f"accuracy on attacked digits: {rates['met none']:.1%} of a network that has met no attack, "
        f"{rates['played']:.1%} of the one that it has played against",
        fontsize=9,
    )
    save(figure, folder, name)


def main() -> None:
    """Train, judge, print and draw."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cifar10", action="store_true", help="CIFAR-10, as `lightning-lead fetch cifar10` keeps it")
    parser.add_argument("--steps", type=int, help="game steps; default 600, on CIFAR-10 2,000")
    parser.add_argument("--judged", type=int, help="images to judge by; default 200, of CIFAR-10 1,000")
    options = parser.parse_args()
    quiet()
    folder, points = options.output / "robust", 10
    if options.fast:
        folder, points, options.judged = options.output / "robust_fast", 2, 8
        options.seeds, options.steps = [0], 3
    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(cifar10=options.cifar10, steps=options.steps, judged=options.judged)
    print(table(setting, options.seeds, folder), flush=True)
    if not options.cifar10:
        draw_epsilon(setting, options.output, points=points)
        draw_attack(setting, UniversalPerturbation((1, 8, 8), 0.5, step_size=0.02), "robust_universal", options.output)
        draw_attack(setting, Patch(3, 1), "robust_patch", options.output)


if __name__ == "__main__":
    main()

"""Tiny classifiers, images and attacks that the tests of this folder share."""

from __future__ import annotations

from typing import Any

import torch
from tiny import tiny_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import RobustModule
from lightning_lead.robust import (
    AbstractAttack,
    FGSMAttack,
    FreeAttack,
    Patch,
    PerturbationNetwork,
    PGDAttack,
    UniversalPerturbation,
)

RANGE = (0.0, 1.0)
SIDE, CLASSES, BATCH, STEPS = 4, 3, 8, 5
EPSILON = 0.2


def network(*, batch_norm: bool = True, smooth: bool = True) -> nn.Module:
    """Images (n, 1, 4, 4) to three logits, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        norm = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        act = nn.Softplus() if smooth else nn.ReLU()
        layers = nn.Conv2d(1, 6, 3, 1, 1), norm, act, nn.Flatten(), nn.Linear(6 * SIDE**2, CLASSES)
        return nn.Sequential(*layers).double()


def data(count: int = STEPS * BATCH) -> tuple[Tensor, Tensor]:
    """Images whose class is where they are bright; some pixels lie on the edges of the range."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    images = 0.6 * torch.rand(count, 1, SIDE, SIDE, generator=draw, dtype=torch.float64)
    images[torch.arange(count), 0, labels] += 0.4
    images[:, :, :, 0] = (images[:, :, :, 0] - 0.3).clamp(min=0)
    return images, labels


def loader(count: int = STEPS * BATCH, batch_size: int = BATCH) -> DataLoader[Any]:
    """The images in order."""
    return DataLoader(TensorDataset(*data(count)), batch_size)


def generator() -> nn.Module:
    """Images to perturbations, with statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return nn.Sequential(nn.Conv2d(1, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 1, 3, 1, 1))


ATTACKS: dict[str, Any] = {
    "pgd": lambda: PGDAttack(EPSILON, steps=3),
    "pgd l2": lambda: PGDAttack(0.5, steps=2, norm="l2"),
    "fgsm": lambda: FGSMAttack(EPSILON),
    "free": lambda: FreeAttack(EPSILON, replays=3),
    "universal": lambda: UniversalPerturbation((1, SIDE, SIDE), EPSILON),
    "universal l2": lambda: UniversalPerturbation((1, SIDE, SIDE), 0.5, norm="l2"),
    "patch": lambda: Patch(2, 1, value_range=RANGE),
    "network": lambda: PerturbationNetwork(generator(), EPSILON),
}


def module(attack: str | AbstractAttack = "pgd", *, net: nn.Module | None = None, **settings: Any) -> RobustModule:
    """A module in float64."""
    made = ATTACKS[attack]() if isinstance(attack, str) else attack
    given = {"value_range": RANGE, "learning_rate": 0.05} | settings
    return RobustModule(net or network(), made, **given).double()


def fit(made: RobustModule, *, steps: int = STEPS, **settings: Any) -> Any:
    """Train on the images in order."""
    feed = settings.pop("feed", None) or loader()
    ckpt = settings.pop("ckpt_path", None)
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(1)
    trainer.fit(made, feed, ckpt_path=ckpt)
    assert trainer.global_step == steps
    return trainer


def furthest(a: nn.Module, b: nn.Module) -> float:
    """The largest difference of weights and buffers."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in ours)

"""Fits of a few game steps that between them run what the package exports: modules, losses, data, callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import callback_kit
import domain_kit
import numpy as np
import robust_kit
import torch
from tiny import tiny_gan, tiny_loader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import AdversarialModule, LeadGANModule, LeadModule, LEADStrategy, callbacks, data, domains
from lightning_lead import constraints as sets
from lightning_lead import gan as gans
from lightning_lead import metrics as scores
from lightning_lead import networks as nets
from lightning_lead import objectives as losses
from lightning_lead import robust as attacks
from lightning_lead.fetch._store import install

__all__ = ["CASES", "Case", "Translator", "cifar10", "translations"]


class Case(NamedTuple):
    """A fit: the public names that it runs, what is fitted on what, and the waits of a game step without a log."""

    names: str
    module: Callable[[], Any]
    data: Callable[[], Any]
    waits: int = 2
    callbacks: Callable[[Path], list[Any]] | None = None


def fast(**settings: Any) -> LeadGANModule:
    """Points, by the extrapolated form, which looks at each loss once."""
    return tiny_gan(**({"game": LEADStrategy(cross="extrapolated")} | settings))


def points() -> Any:
    return tiny_loader(24)


def pictures(channels: int = 1, size: int = 8, labels: bool = False) -> DataLoader[Any]:
    made = torch.rand(24, channels, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return DataLoader(TensorDataset(made, *([torch.arange(24) % 3] if labels else [])), 8)


def of_pictures(channels: int = 1, size: int = 8, **settings: Any) -> LeadGANModule:
    width = channels * size**2
    generator = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Unflatten(1, (channels, size, size)))
    generator.latent_dim = 4
    judge = nn.Sequential(nn.Flatten(), nn.Linear(width, 1))
    return LeadGANModule(generator, judge, **({"game": "AlternatingGDA"} | settings))


def pair(generator: nn.Module, discriminator: nn.Module, **settings: Any) -> LeadGANModule:
    return LeadGANModule(generator, discriminator, **({"game": "AlternatingGDA"} | settings))


class Constrained(LeadModule):
    """A player in each set; the rows of one are weights."""

    def __init__(self) -> None:
        super().__init__(learning_rates=0.1, game=LEADStrategy(cross="extrapolated"))
        self.x, self.y = nn.Parameter(torch.full((2, 3), 0.3)), nn.Parameter(torch.full((3,), 1 / 3))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"x": [self.x], "y": [self.y]}

    def constraints(self) -> dict[str, sets.AbstractConstraint]:
        kinds = sets.NonNegative(), sets.L2Ball(2.0), sets.LInfBall(1.0), sets.Box(0.0, 1.0)
        return {"x": kinds[self.global_step % 4], "y": sets.Simplex(step="projected")}

    def player_losses(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (batch[0].to(self.x.dtype).mean(0) @ self.x) @ self.y
        return {"x": loss + self.x.square().sum(), "y": -loss}


class Translator(AdversarialModule):
    """One picture to another, with a term besides the adversarial one."""

    def __init__(self) -> None:
        judge = nn.Sequential(nn.Flatten(), nn.Linear(256, 1))
        super().__init__(nn.Conv2d(1, 1, 3, padding=1), judge, feature_matching=0.0)

    def task_losses(self, outputs: Any, inputs: Any, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"l1": (outputs - targets).abs().mean()}


def translations() -> DataLoader[Any]:
    made = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return DataLoader(TensorDataset(made, made.flip(-1)), 8)


def classifier(inputs: int, outputs: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


def scored(*metrics: Any) -> Callable[[Path], list[Any]]:
    settings = {"every_n_steps": 2, "num_samples": 50, "batch_size": 25, "kid_subsets": 2, "kid_subset_size": 20}
    return lambda folder: [callbacks.GenerativeMetrics(callback_kit.TinyExtractor(), metrics=[*metrics], **settings)]


def cifar10(folder: Path) -> None:
    """A store of a few images."""
    made = (folder := folder / "cifar10") / "made"
    made.mkdir(parents=True)
    draw = np.random.default_rng(0)
    arrays = {}
    for split, size in {"train": 32, "test": 8}.items():
        arrays[f"{split}_images.npy"] = draw.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8)
        arrays[f"{split}_labels.npy"] = np.arange(size) % 10
    for name, array in arrays.items():
        np.save(made / name, array)
    install(made, folder, list(arrays), {"source": "a test"})


SIMPLE = ("Minimax", "NonSaturating", "Hinge", "LeastSquares", "Wasserstein")
CASES: dict[str, Case] = {
    "exact, on points": Case("LeadGANModule GANBatch GANProblem LeadMixin CrossTerm", tiny_gan, points),
    "accumulation, clip, scheduler, shared latents": Case(
        "Turn split_batch batch_size",
        lambda: fast(clip=0.1, accumulate=2, scheduler=lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 10)),
        points,
    ),
    "constraints": Case("LeadModule NonNegative L2Ball LInfBall Box Simplex check_constraints", Constrained, points),
    # ---- objectives and penalties
    **{
        f"objective {kind}": Case(kind, lambda kind=kind: fast(objective=getattr(losses, kind)()), points)
        for kind in (*SIMPLE, "RelativisticAverage", "RelativisticPairing")
    },
    **{
        f"penalty {kind}": Case(kind, lambda kind=kind: fast(penalty=getattr(losses, kind)(1.0)), points)
        for kind in ("R1", "R2", "WGANGP", "ApproximateR1", "ApproximateR2", "LeCam")
    },
    "path length": Case(
        "PathLength DCGANGenerator DCGANDiscriminator",
        lambda: pair(
            nets.DCGANGenerator(latent_dim=4, width=2),
            nets.DCGANDiscriminator(width=2),
            generator_penalty=losses.PathLength(1.0),
        ),
        pictures,
    ),
    # ---- networks, augmentation, average
    "DCGAN32, DiffAugment": Case(
        "DCGAN32Generator DCGAN32Discriminator DiffAugment",
        lambda: pair(
            nets.DCGAN32Generator(latent_dim=4, width=2), nets.DCGAN32Discriminator(width=2), augment=gans.DiffAugment()
        ),
        lambda: pictures(3, 32),
    ),
    "SNGAN with labels, ADA": Case(
        "SNGANGenerator SNGANDiscriminator ConditionalNorm AdaptiveAugment GeneratorEMA find_ema",
        lambda: pair(
            nets.SNGANGenerator(latent_dim=4, width=2, num_classes=3),
            nets.SNGANDiscriminator(width=2, num_classes=3),
            augment=gans.AdaptiveAugment(),
        ),
        lambda: pictures(3, 32, labels=True),
        callbacks=lambda folder: [callbacks.GeneratorEMA(halflife_images=100)],
    ),
    "MLPs": Case(
        "MLPGenerator MLPDiscriminator GaussiansDataModule ModeCoverage modes_covered ModeCounter SampleGrid "
        "EpochSampler ResumableDataLoader",
        lambda: pair(nets.MLPGenerator(latent_dim=2, width=8), nets.MLPDiscriminator(width=8)),
        lambda: data.GaussiansDataModule(batch_size=16, num_points=64),
        callbacks=lambda folder: [
            callbacks.ModeCounter(every_n_steps=2, num_samples=50),
            callbacks.SampleGrid(every_n_steps=2, dirpath=folder),
        ],
    ),
    # ---- robust
    **{
        f"attack {kind}": Case(
            f"RobustModule SignDescent {names}",
            lambda kind=kind: robust_kit.module(kind),
            lambda: robust_kit.loader(24),
            waits,
        )
        for kind, names, waits in (
            ("pgd", "PGDAttack AbstractSampleAttack", 4),
            ("pgd l2", "PGDAttack", 3),
            ("fgsm", "FGSMAttack", 2),
            ("free", "FreeAttack", 3),
            ("universal", "UniversalPerturbation", 2),
            ("patch", "Patch", 2),
            ("network", "PerturbationNetwork", 2),
        )
    },
    **{
        f"robust loss {kind}": Case(
            kind,
            lambda kind=kind: robust_kit.module("pgd", loss=getattr(attacks, kind)()),
            lambda: robust_kit.loader(24),
            4,
        )
        for kind in ("CrossEntropy", "TRADES", "MART")
    },
    "RobustAccuracy": Case(
        "RobustAccuracy AttackSuite",
        lambda: robust_kit.module("fgsm"),
        lambda: robust_kit.loader(24),
        callbacks=lambda folder: [
            callbacks.RobustAccuracy(
                epsilon=0.1, attacks=["fgsm", "pgd-2"], every_n_steps=2, num_samples=16, data=robust_kit.data(16)
            )
        ],
    ),
    # ---- domains
    "DANN on moons": Case(
        "DANNModule MoonsDataModule DomainAccuracy DomainBatch DomainSamples AbstractDomainDataModule",
        lambda: domains.DANNModule(nn.Linear(2, 4), nn.Linear(4, 1), nn.Linear(4, 1), game="AlternatingGDA"),
        lambda: data.MoonsDataModule(batch_size=16),
        callbacks=lambda folder: [domains.DomainAccuracy(every_n_steps=2)],
    ),
    "DANN on shifted digits": Case(
        "ShiftedDigitsDataModule SmallConvClassifier",
        lambda: domains.DANNModule(classifier(64, 4), nn.Linear(4, 10), nn.Linear(4, 1), game="AlternatingGDA"),
        lambda: data.ShiftedDigitsDataModule(batch_size=16),
    ),
    "group DRO on coloured digits": Case(
        "GroupDROModule ColouredDigitsDataModule",
        lambda: domains.GroupDROModule(classifier(128, 1), 2),
        lambda: data.ColouredDigitsDataModule(batch_size=16),
    ),
    "IRM games on a linear SEM": Case(
        "IRMGamesModule LinearSEMDataModule",
        lambda: domains.IRMGamesModule([nn.Linear(10, 1), nn.Linear(10, 1)], loss="squared", bound=3.0),
        lambda: data.LinearSEMDataModule(batch_size=16, num_samples=64),
        3,  # how many samples each environment has, once per batch
    ),
    "IRMv1": Case("IRMv1Module", domain_kit.irm, lambda: domain_kit.loader(24), 1),
    "ERM": Case("ERMModule", domain_kit.erm, lambda: domain_kit.loader(24), 1),
    # ---- data of images
    "digits": Case(
        "DigitsDataModule DigitsClassifier feature_network",
        of_pictures,
        lambda: data.DigitsDataModule(batch_size=16),
        callbacks=lambda folder: [
            callbacks.GenerativeMetrics("digits", metrics=["kid"], every_n_steps=2, num_samples=50, kid_subset_size=20)
        ],
    ),
    "stacked digits": Case(
        "StackedDigitsDataModule StackedDigitsClassifier Modes",
        lambda: of_pictures(3),
        lambda: data.StackedDigitsDataModule(batch_size=16, num_images=60),
        callbacks=lambda folder: [
            callbacks.GenerativeMetrics("stacked_digits", metrics=[scores.Modes()], every_n_steps=2, num_samples=50)
        ],
    ),
    "CIFAR-10 on the device": Case(
        "CIFAR10DataModule",
        lambda: of_pictures(3, 32),
        lambda: data.CIFAR10DataModule(batch_size=8, on_device=True, flip=True, noise=0.1, pin_memory=False),
    ),
    "images of a folder": Case(
        "ImageFolderDataModule",
        lambda: of_pictures(3, 8),
        lambda: data.ImageFolderDataModule(folder="pictures", image_size=8, batch_size=4, flip=True, pin_memory=False),
    ),
    # ---- scores
    **{
        f"score {kind.__name__}": Case(
            f"{kind.__name__} GenerativeMetrics Scorer Score ImageSet Moments ReferenceImages combine",
            lambda: of_pictures(1, 4),
            lambda: callback_kit.loader(60, 20),
            callbacks=scored(kind(**settings)),
        )
        for kind, settings in (
            (scores.FID, {}),
            (scores.KID, {"subsets": 2, "subset_size": 20}),
            (scores.MIND, {"projections": 8}),
            (scores.PRDC, {}),
            (scores.ClassifierScore, {}),
            (scores.Memorization, {}),
        )
    },
    "Throughput": Case("Throughput", fast, points, callbacks=lambda folder: [callbacks.Throughput(every_n_steps=2)]),
    "AdversarialModule": Case("AdversarialModule", Translator, translations),
}

"""Digits and Gaussians: what the loaders yield, under a Trainer and without one, and how modes are counted."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_lead import ConfigurationError
from lightning_lead.data import DigitsDataModule, GaussiansDataModule, ModeCoverage, ResumableDataLoader, modes_covered

BUILDS = [DigitsDataModule, GaussiansDataModule]


class Watcher(pl.LightningModule):
    """Writes down what each loop hands it."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.counts = {"train": 0, "val": 0, "test": 0}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.counts["train"] += len(batch[0])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.counts["val"] += len(batch[0])

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.counts["test"] += len(batch[0])

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return batch

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
@pytest.mark.parametrize("build", BUILDS)
def test_every_loop_of_a_trainer_runs(build: Any) -> None:
    data, model = build(batch_size=200, num_predict=450), Watcher()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data)
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    size = len(data.tensors()[0])
    assert model.counts == {"train": size // 200 * 200, "val": 2 * size, "test": size}
    predictions = trainer.predict(model, data)
    assert predictions is not None
    assert torch.cat([p for p in predictions if isinstance(p, Tensor)]).tolist() == list(range(450))
    assert all(isinstance(p, Tensor) and p.dtype == torch.int64 for p in predictions)


def test_digits() -> None:
    data = DigitsDataModule()
    images, labels = data.reference_images(), data.reference_labels()
    assert images.shape == (1797, *data.image_shape) == (1797, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (images.min().item(), images.max().item()) == data.image_range == (-1.0, 1.0)
    assert labels.unique().tolist() == list(range(data.num_classes))
    assert labels[:5].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal((images + 1) * 8, ((images + 1) * 8).round())  # 17 grey levels, to the bit


@pytest.mark.parametrize("size", [16, 32])
def test_larger_digits(size: int) -> None:
    data = DigitsDataModule(image_size=size)
    images = data.reference_images()
    assert images.shape == (1797, *data.image_shape) == (1797, 1, size, size)
    assert images.min() >= -1
    assert images.max() <= 1
    small = DigitsDataModule().reference_images()
    torch.testing.assert_close(images.mean((1, 2, 3)), small.mean((1, 2, 3)), atol=0.05, rtol=0)


def test_digits_that_are_held_out_are_not_trained_on() -> None:
    data, other = DigitsDataModule(batch_size=10, held_out=97), DigitsDataModule(held_out=97, seed=5)
    kept = [tuple(image.flatten().tolist()) for image, _ in data.val_dataset()]
    trained = [tuple(image.flatten().tolist()) for image, _ in data.train_dataset()]
    assert (len(kept), len(trained)) == (97, 1700)
    assert len(set(kept) & set(trained)) == 0
    assert all(torch.equal(a[0], b[0]) for a, b in zip(data.val_dataset(), other.val_dataset(), strict=True))
    assert len(data.reference_images()) == 1797
    known = {image.numpy().tobytes(): int(label) for image, label in zip(*data.tensors(), strict=True)}
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for images, labels in loader:
            assert [known[image.numpy().tobytes()] for image in images] == labels.tolist()
    with pytest.raises(ConfigurationError, match=r"1,797 digits.*from 0 to 1,796 \(got 1797\)"):
        DigitsDataModule(held_out=1797)


def test_pictures_keep_their_labels_through_the_shuffle() -> None:
    data = DigitsDataModule(batch_size=100)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(*data.tensors(), strict=True)}
    for images, labels in data.train_dataloader():
        assert [known[image.numpy().tobytes()] for image in images] == labels.tolist()


@pytest.mark.parametrize("build", BUILDS)
def test_ranks_get_different_samples(build: Any) -> None:
    class FakeTrainer:
        world_size, global_rank = 2, 0

    firsts = []
    for rank in (0, 1):
        data = build(batch_size=4)
        data.trainer = FakeTrainer()
        data.trainer.global_rank = rank
        loader = data.train_dataloader()
        assert isinstance(loader, ResumableDataLoader)
        assert (loader.order.num_replicas, loader.order.rank) == (2, rank)
        firsts.append(next(iter(loader))[0])
    joint = build(batch_size=8)
    whole = next(iter(joint.train_dataloader()))[0]
    assert torch.equal(torch.stack(firsts, 1).flatten(0, 1), whole)  # taken in turns, they make up the joint batch


@pytest.mark.parametrize("build", BUILDS)
def test_the_seed_fixes_the_batches(build: Any) -> None:
    one, same, other = (next(iter(build(seed=seed).train_dataloader()))[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("layout", "count", "gap"), [("ring", 8, 4 * torch.sin(torch.tensor(torch.pi / 8)).item()), ("grid", 25, 2.0)]
)
def test_gaussians(layout: str, count: int, gap: float) -> None:
    data = GaussiansDataModule(layout=layout, num_points=20_000)
    points = data.reference_points()
    assert points.shape == (20_000, 2)
    assert points.dtype == torch.float32
    assert data.modes.shape == (count, 2)
    distances = torch.cdist(data.modes, data.modes) + 100 * torch.eye(count)
    assert distances.min().item() == pytest.approx(gap, abs=1e-5)
    offsets = points - data.modes[torch.cdist(points, data.modes).argmin(1)]
    # 40,000 coordinates: three standard errors of the deviation are 1.1 %
    assert offsets.std().item() == pytest.approx(data.std, rel=0.011)
    covered, quality = modes_covered(points, data.modes, std=data.std)
    assert covered == count
    assert quality == pytest.approx(0.98889, abs=0.003)  # 1 − exp(−9/2), and its sampling error


def test_std_and_radius_can_be_set() -> None:
    data = GaussiansDataModule(std=0.5, radius=3, num_points=8000)
    assert data.modes.norm(dim=1).tolist() == pytest.approx([3.0] * 8)
    assert data.reference_points().norm(dim=1).mean().item() == pytest.approx(3, abs=0.1)


def test_modes_covered_counts() -> None:
    modes = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    points = torch.tensor([[-1.0, 0.0], [0.0, 0.029], [0.0, 0.031], [torch.nan, 0.0], [torch.inf, 0.0], [0.0, 0.0]])
    assert modes_covered(points, modes, std=0.01) == ModeCoverage(2, 0.5)
    assert modes_covered(points, modes, std=0.01, at_least=2) == ModeCoverage(1, 0.5)
    assert modes_covered(points, modes, std=0.01, within=2) == ModeCoverage(2, pytest.approx(1 / 3))
    assert modes_covered(points[3:5], modes, std=0.01) == ModeCoverage(0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": torch.zeros(3)}, r"shape \(n, 2\) with n ≥ 1 \(got \(3,\)\)"),
        ({"points": torch.zeros(0, 2)}, "points"),
        ({"modes": torch.zeros(2, 3)}, "modes"),
        ({"std": 0.0}, "std > 0"),
        ({"within": float("nan")}, "within > 0"),
        ({"at_least": 0}, "at_least"),
    ],
    ids=str,
)
def test_what_modes_covered_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        modes_covered(**({"points": torch.zeros(3, 2), "modes": torch.zeros(1, 2), "std": 1.0} | arguments))


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (DigitsDataModule, {"image_size": 28}, r"image_size of 8, 16, 32 \(got 28\)"),
        (DigitsDataModule, {"batch_size": 0}, "DigitsDataModule because batch_size"),
        (DigitsDataModule, {"num_predict": 0}, "num_predict"),
        (DigitsDataModule, {"num_workers": -1}, "num_workers"),
        (GaussiansDataModule, {"seed": -1}, "GaussiansDataModule because seed"),
        (GaussiansDataModule, {"layout": "spiral"}, r"one of ring, grid \(got 'spiral'\)"),
        (GaussiansDataModule, {"num_points": 0}, "num_points"),
        (GaussiansDataModule, {"std": 0.0}, "std is a length"),
        (GaussiansDataModule, {"std": float("nan")}, "got nan"),
        (GaussiansDataModule, {"radius": -1.0}, "radius is a length"),
    ],
)
def test_refused_settings(build: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(**settings)


def test_fewer_samples_than_a_batch() -> None:
    with pytest.raises(ConfigurationError, match="only 1797 samples per rank"):
        DigitsDataModule(batch_size=1798).train_dataloader()


def test_without_scikit_learn_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install lightning-lead\[digits\]"):
        DigitsDataModule()

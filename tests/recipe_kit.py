"""Image recipes on a few synthetic pictures: the same text, with another data set and a small feature network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead.data import ResumableDataLoader

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
NARROW = {  # widths that a core trains in no time
    "sngan": ["--model.generator.width=8", "--model.discriminator.width=2", "--model.generator.latent_dim=8"],
    "dcgan": ["--model.generator.width=4", "--model.discriminator.width=4", "--model.generator.latent_dim=16"],
}


def pictures(count: int, *, size: int = 32, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes (count, 3, size, size) that are smooth and bright where their class is, and labels (count,)."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(count) % classes
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    coarse.flatten(1)[torch.arange(count), labels] = 1.0
    images = interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return (images * 255).round().to(torch.uint8), labels


def write_store(folder: Path, *, train: int = 400, test: int = 100) -> Path:
    """The synthetic pictures as a folder that `lightning-lead fetch cifar10` would leave."""
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        images, labels = pictures(count)
        np.save(folder / f"{part}_images.npy", images.numpy())
        np.save(folder / f"{part}_labels.npy", labels.numpy())
    files = {path.name: {"bytes": path.stat().st_size} for path in sorted(folder.glob("*.npy"))}
    (folder / "manifest.json").write_text(json.dumps({"name": "cifar10", "source": "synthetic", "files": files}))
    return folder


class SyntheticImages(pl.LightningDataModule):
    """In place of CIFAR-10 and STL-10, with the settings that the recipes give them."""

    def __init__(
        self,
        *,
        batch_size: int = 64,
        flip: bool = False,
        noise: float = 0.0,
        image_size: int = 32,
        num_images: int = 400,
        root: str = "",
        download: bool = False,
    ) -> None:
        super().__init__()
        self.batch_size, self.flip, self.noise = batch_size, flip, noise
        images, labels = pictures(num_images, size=image_size)
        self.images = TensorDataset(images.float() / 127.5 - 1, labels)

    def train_dataloader(self) -> ResumableDataLoader:
        return ResumableDataLoader(self.images, self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.images, self.batch_size)

    def reference_images(self) -> torch.Tensor:
        return self.images.tensors[0]


class Colours(nn.Module):
    """Mean colours of a 2×2 grid: 12 features that cost nothing."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


def synthetic(name: str, folder: Path, *rewritten: tuple[str, str], data: bool = True, **changes: str) -> Path:
    """A recipe of the repository with the synthetic pictures and with `Colours`.

    Args:
        name: of the file, without its ending.
        folder: for the copy.
        rewritten: text, and what stands there in the copy.
        data: exchange the data set too.
        changes: key -> its value, wherever the recipe has that key.
    """
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    for old, new in rewritten:
        assert old in text, old
        text = text.replace(old, new)
    changes = {"extractor": "{class_path: recipe_kit.Colours}", "num_samples": "40"} | changes
    for key, value in changes.items():
        text, found = re.subn(rf"(\b{key}:) [^#\n]+", rf"\1 {value} ", text)
        assert found, key
    if data:
        text = re.sub(r"lightning_lead\.\w+DataModule", "recipe_kit.SyntheticImages", text)
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path

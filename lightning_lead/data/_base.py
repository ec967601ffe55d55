"""The base of the package's data modules, and their loaders.

train    shuffled, resumable after any batch, last batch dropped, this rank's share
val      samples in order, without any augmentation; test likewise: a GAN is scored against the data it learned from
predict  batches of sample indices 0..num_predict−1, because samples come from latents and not from data
"""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_lead._checks import check_count
from lightning_lead._lightning import LightningDataModule
from lightning_lead.data.loader import ResumableDataLoader

__all__ = ["AbstractGANDataModule", "AbstractTensorDataModule"]


class AbstractGANDataModule(LightningDataModule, abc.ABC):
    """A data set with a length and an order."""

    def __init__(self, *, batch_size: int, seed: int, num_workers: int, num_predict: int) -> None:
        super().__init__()
        name = type(self).__name__
        check_count(name, "batch_size", batch_size)
        check_count(name, "seed", seed, least=0)
        check_count(name, "num_workers", num_workers, least=0)
        check_count(name, "num_predict", num_predict)
        self.batch_size, self.seed, self.num_workers, self.num_predict = batch_size, seed, num_workers, num_predict

    @abc.abstractmethod
    def train_dataset(self) -> Dataset[Any]:
        """Return the dataset that is shuffled for training."""

    @abc.abstractmethod
    def val_dataset(self) -> Dataset[Any]:
        """Return the dataset that is read in order."""

    @abc.abstractmethod
    def loader_settings(self) -> dict[str, Any]:
        """Further arguments of `torch.utils.data.DataLoader`, for training and validation."""

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled batches of this rank; see `ResumableDataLoader`."""
        # without a trainer there is one rank
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        return ResumableDataLoader(
            self.train_dataset(),
            batch_size=self.batch_size,
            seed=self.seed,
            num_replicas=ranks,
            rank=rank,
            **{"num_workers": self.num_workers, **self.loader_settings()},
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """All samples in order."""
        settings = {"num_workers": self.num_workers, **self.loader_settings()}
        return DataLoader(self.val_dataset(), batch_size=self.batch_size, **settings)

    def test_dataloader(self) -> DataLoader[Any]:
        """All samples in order."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of sample indices, int64, together 0..num_predict−1."""
        # batch_size by name, here and above: given by position, Lightning would give it twice when it rebuilds a loader
        indices: Any = range(self.num_predict)  # a sequence is all that a loader needs
        return DataLoader(indices, batch_size=self.batch_size)


class AbstractTensorDataModule(AbstractGANDataModule):
    """A data set that fits into memory, as tensors whose first is the samples."""

    def __init__(self, *, batch_size: int, seed: int, num_workers: int, num_predict: int) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers, num_predict=num_predict)
        self._tensors: tuple[Tensor, ...] | None = None

    @abc.abstractmethod
    def load(self) -> tuple[Tensor, ...]:
        """The samples, and labels if there are any; called once."""

    def tensors(self) -> tuple[Tensor, ...]:
        """The data set in memory, loaded on first use."""
        if self._tensors is None:
            self._tensors = self.load()
        return self._tensors

    def train_dataset(self) -> Dataset[Any]:
        """The tensors, row by row."""
        return TensorDataset(*self.tensors())

    def val_dataset(self) -> Dataset[Any]:
        """The same."""
        return self.train_dataset()

    def loader_settings(self) -> dict[str, Any]:
        """None."""
        return {}

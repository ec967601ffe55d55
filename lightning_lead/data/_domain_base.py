"""The base of data modules with several domains: batches (inputs, labels, groups), and one loader per domain to score.

    training batch of k training domains   s_1 of domain 1, s_1 of domain 2, …, s_1 of domain k, s_2 of domain 1, …
    order of domain d in epoch e           permutations of its samples, drawn from hash(seed, e, d)

The samples of the domains alternate, so each micro-batch, each rank and each leading fraction of a batch has equal
shares too. An epoch passes the largest domain once; smaller ones begin again.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_lead._checks import check_count, require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead._hashing import text_number
from lightning_lead._lightning import LightningDataModule
from lightning_lead.data._byte_images import batch_as_it_is
from lightning_lead.data.loader import ResumableDataLoader

__all__ = ["UNLABELLED", "AbstractDomainDataModule", "DomainSamples", "check_domain_names", "generator_of"]

UNLABELLED = -1
_CHUNK = 1024  # samples per batch of a loader that is read in order


class DomainSamples(NamedTuple):
    """The samples of one domain, or of a part of it.

    Example:
        >>> DomainSamples(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)).size
        3
    """

    inputs: Tensor  # (n, ...)
    labels: Tensor  # (n,), int64 classes, or floats for regression

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.inputs)


def generator_of(what: str) -> torch.Generator:
    """Return a generator whose numbers are a function of a text."""
    return torch.Generator().manual_seed(text_number(what) >> 1)


def check_domain_names(owner: str, training: Sequence[str], held_out: str) -> None:
    """Refuse one training domain alone, one twice, and a held-out one that is among them."""
    if len(training) < 2:
        raise ConfigurationError(
            f"Cannot build {owner} because one environment alone does not show what varies; pass two or more for "
            f"training (got {list(training)})"
        )
    if len(set(training)) < len(training):
        raise ConfigurationError(
            f"Cannot build {owner} because two training environments are the same; leave one out (got {list(training)})"
        )
    if held_out in training:
        raise ConfigurationError(
            f"Cannot build {owner} because the test domain is among the training domains, and would tell nothing of "
            f"what was not seen; choose another one (got {held_out!r} in {list(training)})"
        )


class AbstractDomainDataModule(LightningDataModule, abc.ABC):
    """Several domains, of which one is held out: name them in `super().__init__`, and implement `load()`.

    Training batches are [inputs, labels, groups], in which a group is the number of a domain in `domains`.

    Args:
        domains: all names, in the order of `load()`; the held-out one is the last.
        held_out: one of them, on whose labels nothing is trained.
        batch_size: samples per training batch and rank, divided by the domains; None for all.
        validation: share of each training domain that is kept for selection, in [0, 0.9].
        seed: of the parts and the order, ≥ 0.
        num_workers: loader processes, ≥ 0.
        adapts: the held-out domain is in training batches, with labels of −1.
        shares: "equal" of each domain in a batch, or "natural", samples of all as they come.
        copies: consecutive samples that are one thing, and always in one part, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> class Shifted(AbstractDomainDataModule):
        ...     num_classes = 2
        ...     def __init__(self, *, batch_size=4):
        ...         names = ("a", "b", "c")
        ...         super().__init__(domains=names, held_out="c", batch_size=batch_size, validation=0.5, seed=0)
        ...     def load(self):
        ...         labels = torch.arange(8) % 2
        ...         return [DomainSamples(labels[:, None] + shift, labels) for shift in (0.0, 1.0, 2.0)]
        >>> inputs, labels, groups = next(iter(Shifted().train_dataloader()))
        >>> inputs.shape, groups.tolist(), [len(loader.dataset) for loader in Shifted().val_dataloader()]
        (torch.Size([4, 1]), [0, 1, 0, 1], [4, 4, 8])
    """

    domains: tuple[str, ...]
    train_domains: tuple[str, ...]
    held_out: str

    def __init__(
        self,
        *,
        domains: Sequence[str],
        held_out: str,
        batch_size: int | None,
        validation: float = 0.2,
        seed: int = 0,
        num_workers: int = 0,
        adapts: bool = False,
        shares: Literal["equal", "natural"] = "equal",
        copies: int = 1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_count(name, "copies", copies)
        self.copies = copies  # of each thing, one after the other; they are never parted
        self.domains, self.held_out, self.adapts = tuple(domains), held_out, adapts
        self.train_domains = tuple(domain for domain in self.domains if domain != held_out)
        if batch_size is not None:
            check_count(name, "batch_size", batch_size)
            if shares == "equal" and batch_size % self.num_groups:
                raise ConfigurationError(
                    f"Cannot build {name} because each of {self.num_groups} domains has an equal share of a batch; "
                    f"pass a batch_size that {self.num_groups} divides (got {batch_size})"
                )
        check_count(name, "seed", seed, least=0)
        check_count(name, "num_workers", num_workers, least=0)
        why = "it is the share of each training domain that is kept for selection"
        self.validation = require_number("validation", validation, low=0.0, high=0.9, why=why)
        self.batch_size, self.seed, self.num_workers, self.shares = batch_size, seed, num_workers, shares
        self._samples: tuple[DomainSamples, ...] | None = None

    @abc.abstractmethod
    def load(self) -> Sequence[DomainSamples]:
        """Return the samples of each of `domains`, in order; called once."""

    @property
    def num_groups(self) -> int:
        """The number of groups in a training batch: of training domains, and of the target that is adapted to."""
        return len(self.train_domains) + self.adapts

    def samples(self) -> Mapping[str, DomainSamples]:
        """Return domain -> all of its samples, loaded on first use."""
        if self._samples is None:
            self._samples = tuple(self.load())
            if empty := [name for name, each in zip(self.domains, self._samples, strict=True) if not each.size]:
                raise ConfigurationError(
                    f"Cannot use {type(self).__name__} because a domain has no samples, of which no accuracy could be "
                    f"told; choose settings that leave some (got none of {', '.join(empty)})"
                )
        return dict(zip(self.domains, self._samples, strict=True))

    def training_samples(self) -> Mapping[str, DomainSamples]:
        """Return domain -> what is trained on; the labels of a target that is adapted to are −1."""
        found = {}
        for name in self.train_domains:
            samples = self.samples()[name]
            found[name] = _taken(samples, self._order(name, samples.size)[: self._kept(samples.size)])
        if self.adapts:
            target = self.samples()[self.held_out]
            found[self.held_out] = target._replace(labels=torch.full_like(target.labels, UNLABELLED))
        return found

    def scored_samples(self) -> Mapping[str, DomainSamples]:
        """Return domain -> what it is scored by: of a training domain what is not trained on, of the held-out one all.

        Without a validation part a training domain is scored by the samples that it is trained on.
        """
        found = {}
        for name, samples in self.samples().items():
            if name == self.held_out:
                found[name] = samples
            else:
                rows = self._order(name, samples.size)
                kept = self._kept(samples.size)
                found[name] = _taken(samples, rows[kept:] if kept < samples.size else rows)
        return found

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled batches of this rank, [inputs, labels, groups], that resume after any batch."""
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        strata: list[tuple[Tensor, ...]] = [
            (*part, _groups(part.size, k)) for k, part in enumerate(self.training_samples().values())
        ]
        if self.shares == "natural":
            strata = [tuple(torch.cat(columns) for columns in zip(*strata, strict=True))]
        dataset = _Strata(strata, seed=self.seed)
        whole = len(dataset) // ranks
        return ResumableDataLoader(
            dataset,
            batch_size=whole if self.batch_size is None else self.batch_size // len(strata),
            seed=self.seed,
            num_replicas=ranks,
            rank=rank,
            num_workers=self.num_workers,
            collate_fn=batch_as_it_is,
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Return a loader per domain, in the order of `domains`: [inputs, labels, groups], all labelled, in order."""
        parts = self.scored_samples().values()
        rows = [_Rows((*part, _groups(part.size, k))) for k, part in enumerate(parts)]
        # a generator of its own: iterating would draw from the global random state otherwise
        settings: dict[str, Any] = {"collate_fn": batch_as_it_is, "generator": torch.Generator()}
        return [DataLoader(each, batch_size=_CHUNK, **settings) for each in rows]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """The same loaders."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """The inputs of the held-out domain, in order."""
        inputs = self.samples()[self.held_out].inputs
        return DataLoader(inputs, batch_size=_CHUNK)  # type: ignore[arg-type]  # a tensor is a sequence of samples

    def _order(self, name: str, size: int) -> Tensor:
        things = torch.randperm(size // self.copies, generator=generator_of(f"parts/{self.seed}/{name}"))
        return (things[:, None] * self.copies + torch.arange(self.copies)).flatten()

    def _kept(self, size: int) -> int:
        things = size // self.copies
        return (things - round(self.validation * things)) * self.copies


def _taken(samples: DomainSamples, rows: Tensor) -> DomainSamples:
    return DomainSamples(samples.inputs[rows], samples.labels[rows])


def _groups(size: int, number: int) -> Tensor:
    return torch.full((size,), number, dtype=torch.int64)


@final
class _Rows(Dataset[Any]):
    """Columns that are cut a batch at a time."""

    def __init__(self, columns: Sequence[Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        rows = torch.tensor(indices)
        return [column[rows] for column in self.columns]


@final
class _Strata(Dataset[Any]):
    """Samples of several strata side by side: index i stands for the i-th of each, in the order of the epoch."""

    indexed_by_epoch = True

    def __init__(self, strata: Sequence[tuple[Tensor, ...]], *, seed: int) -> None:
        self.strata, self.seed = strata, seed
        self._size = max(len(columns[0]) for columns in strata)
        self._orders: tuple[int, list[Tensor]] = (-1, [])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        epochs, within = {index // self._size for index in indices}, torch.tensor(indices) % self._size
        (epoch,) = epochs  # the loader cuts batches out of one epoch
        parts = zip(self.strata, self._orders_of(epoch), strict=True)
        cut = [[column[order[within]] for column in columns] for columns, order in parts]
        return [torch.stack(columns, dim=1).flatten(0, 1) for columns in zip(*cut, strict=True)]

    def _orders_of(self, epoch: int) -> list[Tensor]:
        if self._orders[0] != epoch:
            self._orders = epoch, [self._order(epoch, k, len(columns[0])) for k, columns in enumerate(self.strata)]
        return self._orders[1]

    def _order(self, epoch: int, stratum: int, size: int) -> Tensor:
        drawn = generator_of(f"strata/{self.seed}/{epoch}/{stratum}")
        return torch.cat([torch.randperm(size, generator=drawn) for _ in range(-(-self._size // size))])

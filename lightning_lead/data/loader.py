"""A loader whose batches are a function of (seed, epoch, batch number), so that training resumes after any batch.

    order of epoch e = permutation drawn from hash(seed, e);  rank r of w sees its entries r, r + w, r + 2w, …

What a dataset draws at random from torch's, Python's or numpy's generator is a function of (seed, epoch, batch) as
well, in workers and without. A dataset of N samples that says `indexed_by_epoch = True` is asked for i + e·N in place
of i, so that what it adds at random can be a function of (sample, epoch) alone, in whatever batch.

Lightning finds `state_dict` and `load_state_dict` on a train loader, saves the state with each checkpoint and hands it
back before the first batch. Habits of Lightning 2.6 that shape the code:

* It calls `iter()` before it announces the epoch with `set_epoch`, and on resume it does not call `iter()` again. So
  iteration starts with the first batch asked for, and not with `iter()`.
* With `max_steps`, resuming from a checkpoint of `on_train_epoch_end` runs an empty epoch and counts it. So after a
  resume an announcement only says *that* a new epoch begins; which one, the loader counts itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, final

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler, SequentialSampler

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count
from lightning_lead._errors import ConfigurationError
from lightning_lead._hashing import text_number
from lightning_lead.data._seeded import SeededBatches

__all__ = ["EpochSampler", "ResumableDataLoader"]


def _mixed(seed: int, epoch: int) -> int:
    """63 bits. Not seed + epoch, which would give the second epoch of one seed the order of the first of the next."""
    return text_number(f"{seed}/{epoch}") >> 1


@final
class EpochSampler(DistributedSampler[Any]):
    """One rank's share of the order of an epoch.

    It is a `DistributedSampler`, also on one rank, because Lightning replaces any other sampler under DDP.

    Args:
        dataset: anything with a length.
        num_replicas: number of ranks, ≥ 1.
        rank: of this process, in 0..num_replicas−1.
        shuffle: False keeps the order of the dataset.
        seed: of the order, ≥ 0; the same on all ranks.

    Attributes:
        skip: samples left out at the start of the next iteration; back to 0 once that has begun.
        offset: what `set_epoch` says minus the epoch whose order is meant; 0 unless a trainer miscounts.

    Example:
        >>> sampler = EpochSampler(range(6), seed=1)
        >>> first = list(sampler)
        >>> sampler.skip = 4
        >>> list(sampler) == first[4:]
        True
    """

    def __init__(
        self, dataset: Any, *, num_replicas: int = 1, rank: int = 0, shuffle: bool = True, seed: int = 0
    ) -> None:
        check_arguments(EpochSampler, locals())
        check_count("EpochSampler", "num_replicas", num_replicas)
        check_count("EpochSampler", "rank", rank, least=0)
        check_count("EpochSampler", "seed", seed, least=0)
        if rank >= num_replicas:
            raise ConfigurationError(
                f"Cannot build EpochSampler because ranks count from 0; pass rank ≤ {num_replicas - 1} (got {rank})."
            )
        # what does not divide among the ranks is left out, and another rest in each epoch: no sample counts twice
        super().__init__(dataset, num_replicas, rank, shuffle=shuffle, seed=seed, drop_last=True)
        self.skip = self.offset = 0

    def __iter__(self) -> Iterator[int]:
        """Indices into the dataset, `len(self)` of them, less those to skip; with the epoch if the dataset asks."""
        count = len(self.dataset)  # type: ignore[arg-type]  # a Dataset need not have a length, this one has
        epoch = self.epoch - self.offset
        if self.shuffle:
            seed = _mixed(self.seed, epoch)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        else:
            order = torch.arange(count)
        if getattr(self.dataset, "indexed_by_epoch", False):
            order = order + epoch * getattr(self.dataset, "epoch_stride", count)
        skip, self.skip = self.skip, 0
        return iter(order[self.rank : self.total_size : self.num_replicas][skip:].tolist())


class _Position(NamedTuple):
    """After this many batches of this epoch, which `set_epoch` had announced under this number."""

    epoch: int
    batches: int
    announced: int


@final
class ResumableDataLoader(DataLoader[Any]):
    """Training batches that go on after any batch of any epoch; nothing is loaded for the batches that are skipped.

    The order is shuffled anew in each epoch; without Lightning, call `loader.sampler.set_epoch(e)` before epoch e. The
    last batch is dropped if it is not full. The global random state is left alone: random transforms of a dataset draw
    what they would draw in an uninterrupted run, with any number of workers. `loader.dataset` hands their batches out;
    the dataset itself is `loader.dataset.original`, if it does not say `indexed_by_epoch`. A random `collate_fn` is
    outside of this.

    A state that was taken in the middle of an epoch with another batch size, seed, dataset size or number of ranks has
    no meaning here: the loader says so in a warning and begins that epoch anew.

    Args:
        dataset: a dataset with a length.
        batch_size: samples per batch and rank, ≥ 1.
        seed: of the order, ≥ 0.
        num_replicas: number of ranks, ≥ 1.
        rank: of this process.
        shuffle: False keeps the order of the dataset.
        sampler: leave it out. Lightning passes a sequential one for `overfit_batches`, which means `shuffle=False`.
        num_workers: processes that load, ≥ 0; 0 loads in the training process.
        kwargs: further arguments of `torch.utils.data.DataLoader`.

    Raises:
        ConfigurationError: fewer samples than one batch per rank, a setting out of range, or a foreign sampler.

    Example:
        >>> loader = ResumableDataLoader(range(12), batch_size=4)
        >>> epoch = [batch.tolist() for batch in loader]
        >>> first = next(iter(loader))
        >>> again = ResumableDataLoader(range(12), batch_size=4)
        >>> again.load_state_dict(loader.state_dict())
        >>> [batch.tolist() for batch in again] == epoch[1:]
        True
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        sampler: Sampler[int] | None = None,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        check_arguments(ResumableDataLoader, locals())
        check_count("ResumableDataLoader", "batch_size", batch_size)
        check_count("ResumableDataLoader", "num_workers", num_workers, least=0)
        if sampler is not None and not isinstance(sampler, SequentialSampler):
            raise ConfigurationError(
                "Cannot resume with a foreign sampler because its order is not a function of (seed, epoch); leave "
                f"sampler= out, or use torch's DataLoader (got {type(sampler).__name__})."
            )
        if isinstance(dataset, IterableDataset):
            raise ConfigurationError(
                "Cannot go on in the middle of a stream, which has no order to begin in; use torch's DataLoader, or a "
                f"dataset with __getitem__ (got {type(dataset).__name__})."
            )
        if not getattr(dataset, "indexed_by_epoch", False):
            dataset = SeededBatches(dataset, seed)
        order = EpochSampler(
            dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle and sampler is None, seed=seed
        )
        if len(order) < batch_size:
            raise ConfigurationError(
                f"Cannot fill a batch because there are only {len(order)} samples per rank ({len(dataset)} on "
                f"{num_replicas} rank(s)); use a batch_size ≤ {len(order)} (got {batch_size})."
            )
        kwargs.pop("batch_sampler", None)  # Lightning names these two when it builds the loader anew
        kwargs.pop("drop_last", None)
        # a generator of its own: workers' seeds would be drawn from the global random state otherwise
        super().__init__(
            dataset,
            batch_size,
            sampler=order,
            drop_last=True,
            num_workers=num_workers,
            **{"generator": torch.Generator(), **kwargs},
        )
        self.order = order
        self._at = _Position(0, 0, 0)
        self._resume: _Position | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator starts at its first batch: module head
        """Batches of the sampler's epoch: the rest of it once after `load_state_dict`, all of it otherwise."""
        self._at, self._resume = self._opening(), None
        self.order.offset = self._at.announced - self._at.epoch
        self.order.skip = self._at.batches * (self.batch_size or 1)
        if self.generator is not None:
            self.generator.manual_seed(_mixed(self.order.seed, self._at.epoch))
        for batch in super().__iter__():
            # counted before it is handed out: a checkpoint at the end of its training step has it behind
            self._at = self._at._replace(batches=self._at.batches + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, the batches of it that were handed out, and what the order depends on; equal on all ranks."""
        begun = self._resume is None and self._at.announced == self.order.epoch
        position = self._at if begun else self._opening()
        return {**position._asdict(), **self._signature()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next iteration go on from this state.

        Args:
            state: from `state_dict`. After a complete epoch, the next one begins.
        """
        position = _Position(int(state["epoch"]), int(state["batches"]), int(state["announced"]))
        changed = {name: state[name] for name, now in self._signature().items() if state.get(name, now) != now}
        if position.batches and changed:
            now = {name: self._signature()[name] for name in changed}
            warnings.warn(
                f"Cannot go on after batch {position.batches} of epoch {position.epoch} because the "
                f"order of the batches has changed; to continue it exactly, restore {changed} (got {now}). This epoch "
                "begins anew.",
                stacklevel=2,
            )
            position = position._replace(batches=0)
        if position.batches >= len(self):
            position = _Position(position.epoch + 1, 0, position.announced + 1)
        self.order.set_epoch(position.announced)
        self._resume = position

    def _opening(self) -> _Position:
        """Return the position at which an iteration that begins now begins."""
        announced, resume = self.order.epoch, self._resume
        if resume is None or announced < resume.announced:  # announced by hand: an earlier epoch is that epoch
            offset = self.order.offset if resume is None else 0
            return _Position(announced - offset, 0, announced)
        if announced == resume.announced:
            return resume
        # a new epoch: the next one, if the resumed one has begun, however far the announced number is ahead
        return _Position(resume.epoch + (resume.batches > 0), 0, announced)

    def _signature(self) -> dict[str, int]:
        return {
            "batch_size": self.batch_size or 1,
            "seed": self.order.seed,
            "num_replicas": self.order.num_replicas,
            "num_samples": len(self.dataset),  # type: ignore[arg-type]
        }

"""The resumable loader: alone, and under a real Trainer that is stopped and started again."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import pytorch_lightning as pl
import torch
from pairs import pairwise
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from lightning_lead import ConfigurationError
from lightning_lead.data import EpochSampler, ResumableDataLoader

COUNT, BATCH = 23, 4  # five batches an epoch; three samples are left out


class Counting(Dataset[Tensor]):
    """The numbers from 0, and a record of which of them were loaded."""

    def __init__(self, count: int = COUNT) -> None:
        self.count = count
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.loaded.append(index)
        return torch.tensor(float(index))


class Transformed(Counting):
    """The numbers, each with noise from the three global generators."""

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index) + torch.rand(()) / 3 + random.random() / 3 + numpy.random.rand() / 3


class Together(Transformed):
    """A dataset that reads the samples of a batch together."""

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [self[index] for index in reversed(indices)][::-1]


class Recorder(pl.LightningModule):
    """One weight; writes down which batches it was given."""

    def __init__(self, *, manual: bool = False, fail_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[float]] = []
        self.fail_at = fail_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(batch.tolist())
        loss = self.weight * batch.mean()
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Data(pl.LightningDataModule):
    """Loaders of the numbers; `kind` picks the train loader."""

    def __init__(
        self, kind: str = "resumable", num_workers: int = 0, dataset: type[Counting] = Counting, **settings: Any
    ) -> None:
        super().__init__()
        self.kind, self.settings, self.dataset = kind, {"num_workers": num_workers, **settings}, dataset

    def train_dataloader(self) -> DataLoader[Any]:
        if self.kind == "plain":
            generator = torch.Generator().manual_seed(0)
            return DataLoader(Counting(), BATCH, shuffle=True, drop_last=True, generator=generator)
        return ResumableDataLoader(self.dataset(), BATCH, seed=3, **self.settings)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Counting(4), 2)


class SaveEverywhere(Checkpoint):
    """A checkpoint at each hook at which `ModelCheckpoint` can save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, trainer: pl.Trainer, hook: str) -> None:
        trainer.save_checkpoint(self.folder / f"{hook}-step={trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._save(trainer, "batch")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._save(trainer, "epoch")

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._save(trainer, "end")


def trainer(callbacks: list[pl.Callback] | None = None, **settings: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": bool(callbacks),
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(callbacks=callbacks, **(quiet | settings))


def fit(folder: Path | None, data: Data, *, manual: bool, ckpt: Path | None = None, **settings: Any) -> Recorder:
    """Train to the end; with a folder, keep a checkpoint of every hook of every step."""
    keep: list[pl.Callback] = [SaveEverywhere(folder)] if folder is not None else []
    model = Recorder(manual=manual)
    trainer(keep, **settings).fit(model, data, ckpt_path=ckpt, **({} if ckpt is None else {"weights_only": True}))
    return model


# ---- under Lightning -------------------------------------------------------------------------------------------------

EPOCHS: dict[str, Any] = {"max_epochs": 3}
STEPS: dict[str, Any] = {"max_epochs": -1, "max_steps": 13}
LIMIT: dict[str, Any] = {"limit_train_batches": 3}
STEPS_VALIDATION: dict[str, Any] = STEPS | {"val_check_interval": 2, "check_val_every_n_epoch": None}


LENGTHS: dict[str, dict[str, Any]] = {
    "epochs": EPOCHS,
    "steps": STEPS,
    "epochs-limited": EPOCHS | LIMIT,
    "steps-limited": STEPS | LIMIT,
    "epochs-validation": EPOCHS | {"val_check_interval": 2},
    "steps-validation": STEPS_VALIDATION,
}


@pytest.mark.parametrize(
    ("length", "breaks", "optimization"),
    pairwise(["epochs", "steps"], ["", "-limited", "-validation"], ["automatic", "manual"]),
)
def test_training_goes_on_after_any_checkpoint(tmp_path: Path, length: str, breaks: str, optimization: str) -> None:
    settings, manual = LENGTHS[length + breaks], optimization == "manual"
    whole = fit(tmp_path, Data(), manual=manual, **settings).seen
    per_epoch = settings.get("limit_train_batches", 5)
    assert len(whole) == settings.get("max_steps", 3 * per_epoch)
    assert whole[:per_epoch] != whole[per_epoch : 2 * per_epoch]

    files = sorted(tmp_path.glob("*.ckpt"))
    assert {int(file.stem.split("step=")[1]) for file in files} == set(range(1, len(whole) + 1))
    hooks = {file.stem.split("-")[0] for file in files}
    assert {"batch", "validation", "epoch", "end"} <= hooks | ({"validation"} if "val" not in str(settings) else set())
    if settings is STEPS_VALIDATION:
        # Lightning then runs a whole extra epoch of one batch: it takes the validation of the saved one for unfinished
        files = [file for file in files if not file.stem.startswith("epoch-")]
    wrong = {}
    for file in files:
        step = int(file.stem.split("step=")[1])
        resumed = fit(None, Data(), manual=manual, ckpt=file, **settings).seen
        if resumed != whole[step:]:
            wrong[file.stem] = (resumed, whole[step:])
    assert not wrong


def test_a_plain_loader_does_not_go_on(tmp_path: Path) -> None:
    whole = fit(tmp_path, Data("plain"), manual=False, **STEPS).seen
    with pytest.warns(UserWarning, match="not resumable"):
        resumed = fit(None, Data("plain"), manual=False, ckpt=tmp_path / "batch-step=7.ckpt", **STEPS).seen
    assert resumed != whole[7:]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_do_not_change_the_order(tmp_path: Path, persistent: bool) -> None:
    settings = EPOCHS | {"limit_train_batches": 4}  # each epoch leaves a batch behind that workers have prepared
    alone = fit(None, Data(), manual=True, **settings).seen
    workers: dict[str, Any] = {"num_workers": 2, "persistent_workers": persistent}
    whole = fit(tmp_path, Data(**workers), manual=True, **settings).seen
    resumed = fit(None, Data(**workers), manual=True, ckpt=tmp_path / "batch-step=6.ckpt", **settings).seen
    assert whole == alone
    assert resumed == whole[6:]


@pytest.mark.parametrize("dataset", [Transformed, Together])
@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}], ids=str)
def test_a_resumed_run_sees_the_random_transforms_of_the_uninterrupted_one(
    tmp_path: Path, dataset: type[Counting], workers: dict[str, Any]
) -> None:
    whole = fit(tmp_path, Data(dataset=dataset, **workers), manual=True, **EPOCHS).seen
    random.seed(4)
    numpy.random.seed(4)
    torch.manual_seed(4)
    for step in (2, 6):
        data = Data(dataset=dataset, **workers)
        assert fit(None, data, manual=True, ckpt=tmp_path / f"batch-step={step}.ckpt", **EPOCHS).seen == whole[step:]
    seen = [value for batch in whole for value in batch]
    assert len({value % 1 for value in seen}) == len(seen)  # noise of their own in every epoch
    assert [[int(value) for value in batch] for batch in whole] == fit(None, Data(), manual=True, **EPOCHS).seen


def test_a_resumed_run_can_be_resumed(tmp_path: Path) -> None:
    whole = fit(tmp_path / "a", Data(), manual=True, **EPOCHS).seen
    fit(tmp_path / "b", Data(), manual=True, ckpt=tmp_path / "a" / "batch-step=2.ckpt", **EPOCHS)
    for step in (3, 4, 5, 9):
        resumed = fit(None, Data(), manual=True, ckpt=tmp_path / "b" / f"batch-step={step}.ckpt", **EPOCHS).seen
        assert resumed == whole[step:], step


def test_a_checkpoint_before_the_first_batch_of_a_resumed_run_keeps_its_place(tmp_path: Path) -> None:
    class Saver(Checkpoint):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    whole = fit(tmp_path, Data(), manual=True, **EPOCHS).seen
    run = trainer([Saver()], **EPOCHS)
    run.fit(Recorder(manual=True), Data(), ckpt_path=tmp_path / "batch-step=7.ckpt", weights_only=True)
    assert fit(None, Data(), manual=True, ckpt=tmp_path / "early.ckpt", **EPOCHS).seen == whole[7:]


def test_overfit_batches_takes_the_first_batches_in_order() -> None:
    model = Recorder()
    with pytest.warns(UserWarning, match="turning off the train dataloader shuffling"):
        trainer(overfit_batches=2, max_epochs=2, limit_val_batches=0).fit(model, Data())
    assert model.seen == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


def test_lightning_leaves_the_sampler_alone_under_ddp() -> None:
    loader = ResumableDataLoader(Counting(), BATCH, num_replicas=2, rank=1)
    run = trainer(strategy="ddp", devices=2, use_distributed_sampler=True, max_epochs=1)
    connector = run._data_connector
    assert connector._requires_distributed_sampler(DataLoader(Counting(), BATCH, shuffle=True))  # it would replace this
    assert not connector._requires_distributed_sampler(loader)


# ---- alone -----------------------------------------------------------------------------------------------------------


def epoch_of(loader: ResumableDataLoader, epoch: int) -> list[list[float]]:
    loader.order.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_order_is_a_function_of_seed_and_epoch(num_workers: int) -> None:
    first = ResumableDataLoader(Counting(), BATCH, seed=1, num_workers=num_workers)
    second = ResumableDataLoader(Counting(), BATCH, seed=1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert [epoch_of(first, e) for e in (0, 1)] == [epoch_of(second, e) for e in (0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    # with seed + epoch these two would agree
    assert epoch_of(first, 1) != epoch_of(ResumableDataLoader(Counting(), BATCH, seed=2), 0)


def test_random_transforms_are_a_function_of_seed_epoch_and_rank() -> None:
    def noise(epoch: int, **settings: Any) -> list[float]:
        return [
            value % 1
            for batch in epoch_of(ResumableDataLoader(Transformed(), BATCH, **settings), epoch)
            for value in batch
        ]

    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    runs = [noise(0), noise(1), noise(0, seed=1), noise(0, num_replicas=2), noise(0, num_replicas=2, rank=1)]
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before[1:]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert noise(1) == runs[1]
    assert len({value for run in runs[:3] for value in run}) == sum(len(run) for run in runs[:3])
    assert not set(runs[3]) & set(runs[4])


def test_what_is_set_on_a_loader_s_dataset_reaches_the_one_that_it_was_given() -> None:
    """Also where that one has a dataset itself."""
    inner = Counting()
    loader = ResumableDataLoader(Subset(inner, range(8)), BATCH)
    assert loader.dataset.dataset is inner
    loader.dataset.dataset = Transformed()
    assert isinstance(loader.dataset.original.dataset, Transformed)
    assert loader.dataset[3] != 3


def test_a_dataset_may_grow_while_it_is_read() -> None:
    class Growing(Counting):
        def __getitem__(self, index: int) -> Tensor:
            self.count += 1
            return super().__getitem__(index)

    loader = ResumableDataLoader(Growing(8), BATCH, shuffle=False)
    assert epoch_of(loader, 1) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_stream_is_refused() -> None:
    class Stream(IterableDataset[Tensor]):
        def __len__(self) -> int:
            return 8

        def __iter__(self) -> Any:
            return iter(range(8))

    with pytest.raises(ConfigurationError, match=r"Cannot go on in the middle of a stream.*got Stream"):
        ResumableDataLoader(Stream(), BATCH)


def test_a_loader_s_dataset_answers_for_the_one_that_it_was_given() -> None:
    loader = ResumableDataLoader(Counting(), BATCH)
    loader.dataset.count = 8
    assert (len(loader.dataset), loader.dataset.original.count, loader.dataset[7]) == (8, 8, 7)
    again = pickle.loads(pickle.dumps(loader.dataset))
    assert (len(again), again.original.loaded) == (8, [7])


def test_nothing_is_loaded_for_skipped_batches() -> None:
    loader = ResumableDataLoader(Counting(), BATCH)
    whole = epoch_of(loader, 0)
    loader.load_state_dict(loader.state_dict() | {"batches": 3})
    loader.dataset.loaded.clear()
    assert [batch.tolist() for batch in loader] == whole[3:]
    assert loader.dataset.loaded == [int(x) for batch in whole[3:] for x in batch]
    assert epoch_of(loader, 0) == whole  # only once


def test_a_complete_epoch_is_followed_by_the_next() -> None:
    loader = ResumableDataLoader(Counting(), BATCH)
    epoch_of(loader, 4)
    assert loader.state_dict()["batches"] == len(loader) == 5
    again = ResumableDataLoader(Counting(), BATCH)
    again.load_state_dict(loader.state_dict())
    assert (again.state_dict()["epoch"], again.state_dict()["batches"]) == (5, 0)
    assert [batch.tolist() for batch in again] == epoch_of(loader, 5)


def test_an_announcement_after_a_resume_means_the_next_epoch() -> None:
    fresh = ResumableDataLoader(Counting(), BATCH)
    orders = [epoch_of(fresh, epoch) for epoch in range(6)]
    loader = ResumableDataLoader(Counting(), BATCH)
    loader.load_state_dict(fresh.state_dict() | {"epoch": 1, "batches": 3, "announced": 1})
    assert epoch_of(loader, 3) == orders[2]  # 2 was announced to no purpose
    assert epoch_of(loader, 4) == orders[3]
    next(iter(loader))
    again = ResumableDataLoader(Counting(), BATCH)
    again.load_state_dict(loader.state_dict())
    assert epoch_of(again, 4) == orders[3][1:]
    assert epoch_of(again, 5) == orders[4]
    loader.load_state_dict(fresh.state_dict())
    assert epoch_of(loader, 0) == orders[0]  # back by hand


def test_iter_alone_starts_nothing() -> None:
    loader = ResumableDataLoader(Counting(), BATCH)
    waiting = iter(loader)
    loader.order.set_epoch(2)  # as Lightning does, after iter()
    assert next(waiting).tolist() == epoch_of(loader, 2)[0]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_epoch(world_size: int) -> None:
    loaders = [ResumableDataLoader(Counting(), 2, num_replicas=world_size, rank=r) for r in range(world_size)]
    seen = [[x for batch in epoch_of(loader, 1) for x in batch] for loader in loaders]
    assert len({len(s) for s in seen}) == 1
    assert len(set().union(*seen)) == sum(map(len, seen))  # nothing twice
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)
    # rank 0's state serves every rank
    for loader, batches in zip(loaders, seen, strict=True):
        loader.load_state_dict(states[0] | {"batches": 1})
        assert [x for batch in loader for x in batch.tolist()] == batches[2:]


@pytest.mark.parametrize(
    "changed", [{"batch_size": 3}, {"seed": 1}, {"num_replicas": 2}, {"dataset": Counting(24)}], ids=",".join
)
def test_a_state_of_another_order_begins_the_epoch_anew(changed: dict[str, Any]) -> None:
    state = ResumableDataLoader(Counting(), BATCH).state_dict() | {"epoch": 2, "batches": 3, "announced": 2}
    loader, fresh = (ResumableDataLoader(**({"dataset": Counting(), "batch_size": BATCH} | changed)) for _ in range(2))
    with pytest.warns(UserWarning, match="order of the batches has changed"):
        loader.load_state_dict(state)
    assert [batch.tolist() for batch in loader] == epoch_of(fresh, 2)
    loader.load_state_dict(state | {"batches": 0})  # between epochs nothing is lost, so nothing is said


def test_a_sequential_sampler_means_no_shuffling() -> None:
    loader = ResumableDataLoader(Counting(), BATCH, sampler=SequentialSampler(range(COUNT)))
    assert isinstance(loader.sampler, DistributedSampler)
    assert epoch_of(loader, 3)[0] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 24}, r"only 23 samples per rank .* ≤ 23 \(got 24\)"),
        ({"batch_size": 12, "num_replicas": 2}, "only 11 samples per rank"),
        ({"batch_size": 0}, r"batch_size must be an integer ≥ 1; pass one \(got 0\)"),
        ({"batch_size": True}, "got True"),
        ({"num_workers": -1}, "num_workers"),
        ({"seed": -1}, "seed"),
        ({"num_replicas": 2, "rank": 2}, r"pass rank ≤ 1 \(got 2\)"),
        ({"sampler": RandomSampler(range(3))}, r"foreign sampler .* \(got RandomSampler\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),  # no addresses: they differ per process
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ResumableDataLoader(Counting(), **({"batch_size": BATCH} | settings))


def test_the_sampler_skips_once() -> None:
    sampler = EpochSampler(range(10), shuffle=False)
    sampler.skip = 7
    assert list(sampler) == [7, 8, 9]
    assert len(list(sampler)) == len(sampler) == 10

"""RobustAccuracy: clean and robust accuracy during training, in validation and in test, each with its protocol.

The data are read once, in order, and kept. Ranks share them, and the numbers are the same for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead._files import write_json
from lightning_lead._hashing import tensors_hash
from lightning_lead._lightning import Callback, Trainer, rank_zero_info
from lightning_lead.calculus._rng import private_rng
from lightning_lead.callbacks._monitors import check_monitors
from lightning_lead.metrics._protocol import library_versions, read_records
from lightning_lead.robust.evaluation import AttackSuite

__all__ = ["RobustAccuracy"]


class RobustAccuracy(Callback):
    """Attacks a classifier every so many game steps, or at each validation, and under `trainer.validate` and `test`.

    Logged: `robust_accuracy/NAME` for each attack, and `clean_accuracy`, for `ModelCheckpoint(monitor=..., mode="max")`
    and every logger. The protocol goes with them: into the log, into `history`, and into robust_accuracy.json in the
    log folder. The module's `forward` is what is attacked: images to logits, in eval mode; afterwards modes, gradients,
    statistics and random numbers are as they were.

    Nothing happens in the sanity check and with `fast_dev_run`.

    Args:
        attacks: names that `robust.AttackSuite` knows, as "pgd-20", "apgd-ce", "square", "autoattack"; all but "fgsm"
            and "pgd" need the extra `lightning-lead[robust]`.
        epsilon: largest size of a perturbation, > 0, in the units of the images.
        norm: "linf" or "l2".
        value_range: lowest and highest value of an image; default that of the module.
        every_n_steps: game steps between looks in a fit, ≥ 1, or None for each validation.
        num_samples: the first so many samples of the data, ≥ 1, or None for all.
        restarts: of each attack but the standard ensemble and FGSM, ≥ 1.
        batch_size: images that are attacked together, ≥ 1; part of the protocol.
        seed: of all random starts, ≥ 0.
        data: (images, labels), a dataset or a DataLoader (its dataset is read in order); default the validation data,
            under `trainer.test` the test data.
        others: attacks of one's own, see `robust.AttackSuite`.
        name_prefix: before the names that are logged, for a second instance.

    Raises:
        ConfigurationError: a setting out of its range, a missing extra; at fit start, data that cannot be attacked.

    Example:
        >>> RobustAccuracy(["pgd-20"], epsilon=8 / 255).names
        ['robust_accuracy/pgd-20', 'clean_accuracy']
    """

    def __init__(
        self,
        attacks: Sequence[str] = ("pgd-20",),
        *,
        epsilon: float,
        norm: Literal["linf", "l2"] = "linf",
        value_range: tuple[float, float] | None = None,
        every_n_steps: int | None = None,
        num_samples: int | None = 1000,
        restarts: int = 1,
        batch_size: int = 250,
        seed: int = 0,
        data: Any = None,
        others: Mapping[str, Callable[[nn.Module, Tensor, Tensor, float], Tensor]] | None = None,
        name_prefix: str = "",
    ) -> None:
        check_arguments(RobustAccuracy, locals())
        check_positive(every_n_steps=every_n_steps, num_samples=num_samples)
        self._settings: dict[str, Any] = {
            "attacks": list(attacks),
            "epsilon": epsilon,
            "norm": norm,
            "restarts": restarts,
            "batch_size": batch_size,
            "seed": seed,
            "others": others,
        }
        self._given_range = value_range
        self.suite = self._suite(value_range or (-1.0, 1.0))
        self.every_n_steps, self.num_samples, self.data = every_n_steps, num_samples, data
        self.name_prefix = name_prefix
        self.history: list[dict[str, Any]] = []
        self._kept: tuple[str, Tensor, Tensor] | None = None
        self._path = Path()
        self._last_step = 0
        self._loaded_step: int | None = None

    @property
    def names(self) -> list[str]:
        """The names that are logged."""
        return [self.name_prefix + name for name in self.suite.names]

    @property
    def state_key(self) -> str:
        """Tells several instances in one Trainer apart."""
        return self._generate_state_key(name_prefix=self.name_prefix)

    # ---- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Attack in the range of the module's images."""
        self._loaded_step = None
        if self._given_range is None and hasattr(pl_module, "value_range"):
            self.suite = self._suite(pl_module.value_range)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Read from which step the weights are: outside of a fit the Trainer does not know."""
        self._loaded_step = int(checkpoint["global_step"])

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Read the data, and take up the records of the run that is resumed."""
        start = self._last_step = trainer.global_step
        self.history = [record for record in self.history if record["step"] <= start]
        if self.history:  # callbacks that monitor an accuracy must not find it missing until the next one is due
            known = {name: torch.tensor(value) for name, value in self._named(self.history[-1]["values"]).items()}
            trainer.callback_metrics.update(known)
        check_monitors(trainer, self.names, self.every_n_steps)
        self._prepare(trainer, pl_module)
        records = read_records(self._path) if trainer.is_global_zero else []
        if records and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_json(self._path, [record for record in records if record["step"] <= start])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Attack if a game step was made and it is one of every n."""
        step = trainer.global_step
        if self.every_n_steps is not None and step != self._last_step and step % self.every_n_steps == 0:
            self._last_step = step
            self._score(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Attack under `trainer.validate`, and in a fit without steps of its own."""
        if not trainer.sanity_checking and (trainer.state.fn == "validate" or self.every_n_steps is None):
            self._score(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Attack under `trainer.test`."""
        self._score(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Free the data."""
        self._kept = None

    def state_dict(self) -> dict[str, Any]:
        """The history, in plain types; loads with `weights_only=True`."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history over."""
        self.history = list(state_dict["history"])

    # ---- what -------------------------------------------------------------------------------------------------------

    def _suite(self, value_range: tuple[float, float]) -> AttackSuite:
        return AttackSuite(**self._settings, value_range=value_range)

    def _named(self, values: Mapping[str, float]) -> dict[str, float]:
        return {self.name_prefix + name: value for name, value in values.items()}

    def _prepare(self, trainer: Trainer, pl_module: Any) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # log_dir is agreed on by all ranks
        self._path = Path(folder) / f"{self.name_prefix.replace('/', '_')}robust_accuracy.json"
        if self._kept is None:
            self._kept = _read(self.data, trainer, pl_module, self.num_samples)

    def _score(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._prepare(trainer, pl_module)
        assert self._kept is not None
        name, images, labels = self._kept
        if hasattr(pl_module, "sync_buffers"):
            pl_module.sync_buffers()
        fitting = trainer.state.fn == "fit"
        values = self.suite.measure(pl_module, images, labels)
        step = trainer.global_step if fitting or self._loaded_step is None else self._loaded_step
        protocol = self.suite.protocol(len(images))
        protocol = {
            "summary": f"{_threat(protocol)}, {len(images)} of {name}",
            **protocol,
            "data": name,
            "data_sha256": tensors_hash({"images": images, "labels": labels}),
            "trainer_precision": str(trainer.precision),
            "versions": library_versions(),
        }
        record = {
            "step": step,
            "stage": trainer.state.fn.value if trainer.state.fn is not None else "none",
            "game": getattr(getattr(pl_module, "game", None), "description", None),
            "values": values,
            "protocol": protocol,
        }
        self.history.append(record)
        self._publish(trainer, pl_module, self._named(values))
        if trainer.is_global_zero:
            write_json(self._path, [*read_records(self._path), record])
        rank_zero_info(_described(record))

    def _publish(self, trainer: Trainer, pl_module: Any, values: Mapping[str, float]) -> None:
        if trainer.training:
            settings: dict[str, Any] = {"logger": False, "on_step": True, "on_epoch": False}
        else:
            # every rank has the same value, which a maximum over ranks keeps and a mean would round
            settings = {"logger": False if trainer.state.fn == "fit" else None, "on_epoch": True, "batch_size": 1}
            settings |= {"reduce_fx": "max", "sync_dist": trainer.world_size > 1}
        for name, value in values.items():
            shown = torch.tensor(value) if trainer.training else value
            pl_module.log(name, shown, prog_bar=name == self.names[0], **settings)
        if trainer.state.fn == "fit":  # at its own step, whatever log_every_n_steps is
            for target in trainer.loggers:
                target.log_metrics(dict(values), step=trainer.global_step)


def _described(record: Mapping[str, Any]) -> str:
    """Return a record in one line, for the log."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in record["values"].items())
    return f"step {record['step']}: {values} | {record['protocol']['summary']}"


def _threat(protocol: Mapping[str, Any]) -> str:
    """Return in one line what images were attacked by."""
    attacks = ", ".join(f"{name} ({attack['library']})" for name, attack in protocol["attacks"].items())
    return (
        f"{attacks}, ε = {protocol['epsilon']:.4g} in {protocol['norm']}, images in {protocol['value_range']}, "
        f"seed {protocol['seed']}, eval mode"
    )


def _read(given: Any, trainer: Trainer, pl_module: Any, count: int | None) -> tuple[str, Tensor, Tensor]:
    """Return a name for the data, and images and labels, the first `count`, on the CPU."""
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(each, Tensor) for each in given):
        images, labels = given
        return "tensors given as data", images[:count].cpu(), labels[:count].cpu()
    loader, name = given, "data given"
    if given is None:
        loader, name = _own_data(trainer)
    dataset = getattr(loader, "dataset", loader)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise ConfigurationError(
            "Cannot attack a stream because ranks could not share it; pass RobustAccuracy(data=...), a pair (images, "
            f"labels) or a dataset with a length (got {type(dataset).__name__})"
        )
    collate = getattr(loader, "collate_fn", None)
    images_, labels_, size = list[Tensor](), list[Tensor](), 0
    unpack = getattr(pl_module, "unpack_batch", None) or _pair
    # a generator of its own: iterating would draw from the global one; and data that are augmented draw as well
    feed = DataLoader(
        dataset, batch_size=min(count or 500, 500), shuffle=False, collate_fn=collate, generator=torch.Generator()
    )
    with private_rng(0):
        for batch in feed:
            images, labels = unpack(batch)
            images_.append(images.detach().cpu())
            labels_.append(labels.detach().cpu())
            size += len(images)
            if count is not None and size >= count:
                break
    if not size:
        raise ConfigurationError("Cannot measure accuracies because the data are empty; pass data with samples")
    return f"{type(dataset).__name__}, {name}", torch.cat(images_)[:count], torch.cat(labels_)[:count]


def _own_data(trainer: Trainer) -> tuple[Any, str]:
    """Return the loader of the stage, and what it is called."""
    testing = trainer.state.fn == "test"
    loaders = trainer.test_dataloaders if testing else trainer.val_dataloaders
    name = "test data" if testing else "validation data"
    datamodule: Any = getattr(trainer, "datamodule", None)
    if loaders is None and datamodule is not None:
        loaders = datamodule.test_dataloader() if testing else datamodule.val_dataloader()
    if isinstance(loaders, (list, tuple)) and len(loaders) == 1:
        (loaders,) = loaders
    if not hasattr(loaders, "dataset"):
        raise ConfigurationError(
            f"Cannot tell what to attack because there is not one loader of {name} here; pass RobustAccuracy(data=...),"
            f" a pair (images, labels) or a dataset (got {type(loaders).__name__})"
        )
    owner = f" of {type(datamodule).__name__}" if datamodule is not None else ""
    return loaders, name + owner


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return images, labels

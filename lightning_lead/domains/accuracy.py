"""Accuracy per domain, and of the held-out one what two ways of choosing a step would report.

    selected on test         max over the records t of held_out_t                          (optimistic)
    selected on validation   held_out at the record with the largest average_t, or worst_t, of the training domains

Both stand beside each other, because they differ by tens of percent where training domains mislead; see Gulrajani and
Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import Callback, Trainer
from lightning_lead.calculus._rng import private_rng
from lightning_lead.domains._batch import domain_batch
from lightning_lead.domains._losses import predicted_classes

__all__ = ["DomainAccuracy"]

_PREFIX = "accuracy/"
_ON_TEST, _ON_VALIDATION = "held_out_selected_on_test", "held_out_selected_on_validation"


class DomainAccuracy(Callback):
    """Scores a classifier on every domain, every so many game steps or at each validation, and in `trainer.test`.

    Logged are, each after `accuracy/`: `held_out`; `held_out_selected_on_test` and `held_out_selected_on_validation`,
    those of the best step so far by each choice; `average` and `worst`, over the labelled training domains; and every
    domain by its name. What it scores is in the data module: `domains`, `train_domains`, `held_out`, `num_classes`, and
    a loader per domain from `val_dataloader()`; of a training domain the part that is not trained on. The module is
    called, in eval mode, and returns logits. Ranks share the samples.

    Args:
        every_n_steps: game steps between scores in a fit, ≥ 1, or None for each validation.
        select: "average" or "worst", of the training domains: the choice by validation; of equal ones the first.

    Attributes:
        history: a record {"step", "stage", "values", "protocol"} per score.

    Raises:
        ConfigurationError: a setting out of its range; at setup, a data module that does not say what its domains are,
            or whose held-out domain is among the training domains.

    Example:
        >>> DomainAccuracy(every_n_steps=50).names[0]
        'accuracy/held_out'
    """

    def __init__(self, *, every_n_steps: int | None = None, select: Literal["average", "worst"] = "average") -> None:
        check_arguments(DomainAccuracy, locals())
        check_positive(every_n_steps=every_n_steps)
        self.every_n_steps, self.select = every_n_steps, select
        self.history: list[dict[str, Any]] = []
        self._domains: tuple[str, ...] = ()
        self._last_step = -1

    @property
    def names(self) -> list[str]:
        """The names that are logged; those of single domains are known once there are data."""
        known = ("held_out", _ON_TEST, _ON_VALIDATION, "average", "worst")
        return [_PREFIX + name for name in (*known, *self._domains)]

    # ---- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse data that cannot be scored by domains."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        missing = [name for name in ("domains", "train_domains", "held_out", "num_classes") if not hasattr(data, name)]
        if missing:
            raise ConfigurationError(
                "Cannot score domains because the data module does not say what they are; use one such as "
                f"ColouredDigitsDataModule, or give yours {', '.join(missing)} (got {type(data).__name__})"
            )
        if data.num_classes is None:
            raise ConfigurationError(
                f"Cannot take an accuracy of targets that are numbers; leave DomainAccuracy out (got "
                f"{type(data).__name__})"
            )
        if data.held_out in data.train_domains:
            raise ConfigurationError(
                "Cannot score a held-out domain because it is among the training domains; take it out of train_domains "
                f"(got {data.held_out!r} in {list(data.train_domains)})"
            )
        self._domains = tuple(data.domains)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take up the records of the run that is resumed, without those after its step."""
        self._last_step = trainer.global_step
        self.history = [record for record in self.history if record["step"] <= trainer.global_step]
        if self.history:  # callbacks that monitor a score must not find it missing until the next one is due
            trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self.history[-1]["values"].items()})

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Score if a game step was made and it is one of every n."""
        step = trainer.global_step
        if self.every_n_steps is not None and step != self._last_step and step % self.every_n_steps == 0:
            self._last_step = step
            self._score(trainer, pl_module, trainer.datamodule.val_dataloader())  # type: ignore[attr-defined]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Score under `trainer.validate`, and in a fit without steps of its own."""
        if not trainer.sanity_checking and (trainer.state.fn == "validate" or self.every_n_steps is None):
            self._score(trainer, pl_module, trainer.datamodule.val_dataloader())  # type: ignore[attr-defined]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Score under `trainer.test`."""
        self._score(trainer, pl_module, trainer.datamodule.test_dataloader())  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """The history, in plain types; loads with `weights_only=True`."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history over."""
        self.history = list(state_dict["history"])

    # ---- what -------------------------------------------------------------------------------------------------------

    def _score(self, trainer: Trainer, pl_module: Any, loaders: Sequence[Any]) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        accuracies, sizes = {}, {}
        pl_module.sync_buffers()  # running statistics drift apart between ranks
        with torch.no_grad(), private_rng(0, pl_module.device), _evaluating(pl_module):
            for name, loader in zip(data.domains, loaders, strict=True):
                accuracies[name], sizes[name] = _accuracy(pl_module, trainer, loader, data.num_classes)
        fitting = trainer.state.fn == "fit"
        seen = [record["values"] for record in self.history if record["stage"] == "fit"] if fitting else []
        values = _summary(accuracies, data.train_domains, data.held_out, seen, select=self.select)
        stage = trainer.state.fn.value if trainer.state.fn is not None else "none"
        protocol = _protocol(data, sizes, self.select)
        self.history.append({"step": trainer.global_step, "stage": stage, "values": values, "protocol": protocol})
        self._publish(trainer, pl_module, values)

    def _publish(self, trainer: Trainer, pl_module: Any, values: Mapping[str, float]) -> None:
        at_a_step = trainer.training
        settings: dict[str, Any] = {"logger": False, "on_step": True, "on_epoch": False}
        for name, value in values.items():
            if at_a_step:  # on the host, because Lightning reads what is in the bar after every step
                pl_module.log(name, torch.tensor(value), prog_bar=name == self.names[0], **settings)
            else:
                pl_module.log(name, value, on_epoch=True, batch_size=1)
        if at_a_step:
            for logger in trainer.loggers:
                logger.log_metrics(dict(values), step=trainer.global_step)


def _summary(
    accuracies: Mapping[str, float],
    training: Sequence[str],
    held_out: str,
    seen: Sequence[Mapping[str, float]],
    *,
    select: str,
) -> dict[str, float]:
    """Return the logged values, given those of the records before."""
    of_training = [accuracies[name] for name in training]
    now = {"held_out": accuracies[held_out], "average": sum(of_training) / len(of_training), "worst": min(of_training)}
    records = [*({name: each[_PREFIX + name] for name in now} for each in seen), now]
    chosen = max(records, key=lambda record: record[select])  # the first of equal ones
    values = {
        "held_out": now["held_out"],
        _ON_TEST: max(record["held_out"] for record in records),
        _ON_VALIDATION: chosen["held_out"],
        "average": now["average"],
        "worst": now["worst"],
        **accuracies,
    }
    return {_PREFIX + name: value for name, value in values.items()}


def _accuracy(pl_module: Any, trainer: Trainer, loader: Any, num_classes: int) -> tuple[float, int]:
    """Return the accuracy over all ranks' shares of the samples, and how many samples there are."""
    metric = MulticlassAccuracy(num_classes, average="micro", ignore_index=-1, validate_args=False)
    metric, size = metric.to(pl_module.device), 0
    for batch in loader:
        inputs, labels, _ = getattr(pl_module, "unpack_batch", domain_batch)(batch)
        share = slice(trainer.global_rank, None, trainer.world_size)
        size += len(labels)
        own, wanted = inputs[share].to(pl_module.device), labels[share].to(pl_module.device)
        metric.update(predicted_classes(pl_module(own)) if len(own) else wanted, wanted)
    return float(metric.compute()), size


def _protocol(data: Any, sizes: Mapping[str, int], select: str) -> dict[str, Any]:
    """Return what decides the numbers, in plain types."""
    adapts = bool(getattr(data, "adapts", False))
    validation = float(getattr(data, "validation", 0.0))
    part = f"validation parts ({validation:.0%})" if validation else "training samples"
    training = ", ".join(f"{name} ({sizes[name]})" for name in data.train_domains)
    summary = (
        f"held out: {data.held_out} ({sizes[data.held_out]} samples{', seen without labels' if adapts else ''}); "
        f"selected on test: the best step by the held-out domain itself, optimistic; selected on validation: the best "
        f"step by the {select} accuracy on {part} of {training}; live weights, eval mode"
    )
    return {
        "summary": summary,
        "held_out": data.held_out,
        "train_domains": list(data.train_domains),
        "samples": dict(sizes),
        "validation": validation,
        "adapts": adapts,
        "select": select,
        "torchmetrics": version("torchmetrics"),
    }


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put every layer in eval mode, and back as it was."""
    before = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in before:
            layer.training = training

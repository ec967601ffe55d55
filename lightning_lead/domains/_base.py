"""The base of the modules here: the batch and its check, losses of samples, and a forward that callbacks call."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_lead._distributed import combine
from lightning_lead._errors import ConfigurationError
from lightning_lead.domains._batch import DomainBatch, check_batch, domain_batch
from lightning_lead.domains._losses import JointCounts, LossKind, sample_losses
from lightning_lead.engine.turns import Turn
from lightning_lead.training.module import LeadModule

__all__ = ["AbstractDomainModule"]


class AbstractDomainModule(LeadModule, abc.ABC):
    """A module whose batches are (inputs, labels, groups): implement `forward(inputs)`, `players()` and losses.

    Args:
        num_groups: groups are in [0, num_groups), ≥ 2.
        counted: the argument that says how many, for messages.
        loss: "classification" or "squared".
        settings: further arguments of `LeadModule`.

    Raises:
        ConfigurationError: a setting out of its range; in training, a batch of another form.

    Example:
        >>> import torch
        >>> class WorstGroup(AbstractDomainModule):
        ...     def __init__(self):
        ...         super().__init__(num_groups=2, counted="num_groups", loss="squared", game="GradientDescent")
        ...         self.weights = torch.nn.Parameter(torch.zeros(3))
        ...     def forward(self, inputs):
        ...         return inputs @ self.weights
        ...     def players(self):
        ...         return {"weights": [self.weights]}
        ...     def weights_loss(self, batch):
        ...         inputs, labels, groups = self.unpack_batch(batch)
        ...         losses = self.sample_losses(self(inputs), labels)
        ...         return torch.stack([losses[groups == g].mean() for g in range(self.num_groups)]).max()
        >>> WorstGroup()(torch.ones(2, 3)).shape
        torch.Size([2])
    """

    _passing: ClassVar[tuple[str, ...]] = ("_counts",)

    takes_unlabelled = False
    """True if labels of −1 have a meaning."""

    def __init__(self, *, num_groups: int, counted: str, loss: LossKind, **settings: Any) -> None:
        super().__init__(**settings)
        if num_groups < 2:
            raise ConfigurationError(
                f"Cannot build {type(self).__name__} because one environment alone does not show what varies; pass "
                f"{counted} of two or more (got {num_groups})"
            )
        self.num_groups, self.loss = num_groups, loss
        self._counts: JointCounts | None = None  # of a game step whose losses see a part of the batch

    @abc.abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the prediction: logits (n, classes), or one logit or number per sample.

        Args:
            inputs: (n, ...).
        """

    def unpack_batch(self, batch: Any) -> DomainBatch:
        """Return (inputs, labels, groups) of a batch; override it for batches of another form.

        Args:
            batch: from the loader.
        """
        return domain_batch(batch)

    def sample_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (n,) of each sample; override it for a loss of your own.

        Args:
            outputs: of `forward`.
            labels: (n,).
        """
        return sample_losses(outputs, labels, self.loss)

    def on_fit_start(self) -> None:
        """Refuse data with another number of groups, and start the game."""
        data: Any = getattr(self.trainer, "datamodule", None)
        found = getattr(data, "num_groups", self.num_groups)
        if found != self.num_groups:
            raise ConfigurationError(
                f"Cannot train {type(self).__name__} on {type(data).__name__} because that has another number of "
                f"groups; set the module's to {found} (got {self.num_groups})"
            )
        super().on_fit_start()

    def game_turns(self, batch: Any) -> list[Turn]:
        """Return the turns of a game step, after a check of the batch; on an accelerator in the first step alone."""
        inputs, labels, groups = self.unpack_batch(batch)
        if groups.device.type == "cpu" or not self._probed:  # elsewhere to read it is to wait for the device
            classes = self.loss == "classification"
            check_batch(
                (inputs, labels, groups),
                num_groups=self.num_groups,
                classes=classes,
                unlabelled=self.takes_unlabelled,
            )
        return super().game_turns(batch)

    def _share_over_ranks(self, batch: Any) -> None:
        super()._share_over_ranks(batch)
        if self.accumulate == 1 and self.trainer.world_size == 1:
            return
        _, labels, groups = self.unpack_batch(batch)
        known = labels.new_tensor(len(labels)) if labels.is_floating_point() else (labels >= 0).sum()
        counts = [torch.full_like(groups.sum(), len(groups)), known.long(), *one_hot(groups, self.num_groups).sum(0)]
        samples, labelled, *of_groups = combine(torch.stack(counts))
        self._counts = JointCounts(samples, labelled, torch.stack(of_groups))

    def _follow_step(self) -> None:
        super()._follow_step()
        self._counts = None  # a loss that is asked for outside of a game step is of its own batch

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: `DomainAccuracy` scores."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing per batch: `DomainAccuracy` scores."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the prediction for inputs alone, or for those of a batch."""
        outputs: Tensor = self(batch if isinstance(batch, Tensor) else self.unpack_batch(batch).inputs)
        return outputs

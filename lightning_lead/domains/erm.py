"""Empirical risk minimisation: the baseline that looks at no domain.

    L = mean over all samples of ℓ(f(x), y) + l2 ‖w‖²

Reference: the first row of every table; Vapnik, "Principles of Risk Minimization for Learning Theory", NIPS 1991.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable
from lightning_lead.domains._base import AbstractDomainModule
from lightning_lead.domains._losses import LossKind
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["ERMModule", "check_l2", "squared_norm"]


def check_l2(l2: float) -> float:
    """Return the weight of the squared norm as a float, ≥ 0."""
    return require_number("l2", l2, low=0.0, high=math.inf, why="it is the weight of the squared norm")


def squared_norm(network: nn.Module) -> Tensor:
    """Return Σ w² over all parameters."""
    return torch.stack([parameter.square().sum() for parameter in network.parameters()]).sum()


class ERMModule(AbstractDomainModule):
    """One network that minimises the mean loss over all samples: one player, and no opponent.

    Args:
        network: inputs (n, ...) -> logits (n, classes), or one logit or number (n, 1) per sample.
        num_groups: groups are in [0, num_groups), ≥ 2; they are checked, and not looked at.
        loss: "classification", cross-entropy; or "squared".
        l2: weight of the squared norm of all parameters, ≥ 0.
        game: default "GradientDescent", the optimizer's own step; or another rule that needs no opponent.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9).
        learning_rates: one number, or {"network": ...}; > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per step; or None.
        clip: largest norm of the direction, > 0, or None.
        accumulate: number of micro-batches that a batch is split into, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range; in training, a batch of another form.

    Example:
        >>> erm = ERMModule(nn.Linear(2, 1), num_groups=2, loss="squared")
        >>> list(erm.players())
        ['network']
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_groups: int = 2,
        loss: LossKind = "classification",
        l2: float = 0.0,
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        learning_rates: float | Mapping[str, float] = 1e-3,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        check_arguments(ERMModule, locals())
        super().__init__(
            num_groups=num_groups,
            counted="num_groups",
            loss=loss,
            game="GradientDescent" if game is None else game,
            optimizer=optimizer,
            learning_rates=learning_rates,
            scheduler=scheduler,
            clip=clip,
            accumulate=accumulate,
        )
        self.network, self.l2 = network, check_l2(l2)

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return the parameters of the one player."""
        return {"network": self.network.parameters()}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs.

        Args:
            inputs: (n, ...).
        """
        outputs: Tensor = self.network(inputs)
        return outputs

    def player_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the mean loss, and the squared norm where it has a weight."""
        inputs, labels, _ = self.unpack_batch(batch)
        risk = self.sample_losses(self(inputs), labels).mean()
        return {"network": risk + self.l2 * squared_norm(self.network) if self.l2 else risk}

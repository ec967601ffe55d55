"""IRMv1: a risk over all environments, and a penalty on a classifier that is not the best in each of them.

    R_e = mean over environment e of ℓ(f(x), y),        P_e = (d/ds R_e(s f) at s = 1)²
    L = ( mean_e R_e + l2 ‖w‖² + λ_t mean_e P_e ) / max(1, λ_t),       λ_t = min(1, λ) before `anneal_steps`, then λ

The derivative by the scale s is known in closed form, f times the loss's derivative by f, so that training needs first
derivatives alone:  (σ(f) − y) f  of one logit,  Σ_k (softmax(f)_k − [k = y]) f_k  of several,  2 (f − y) f  if squared.

Reference: Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", 2019, equation (IRMv1); annealing
and division by λ as in the authors' experiment with coloured digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count, require_number
from lightning_lead._distributed import mean_over_ranks
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable
from lightning_lead.domains._base import AbstractDomainModule
from lightning_lead.domains._losses import LossKind, group_means, sample_losses
from lightning_lead.domains.erm import check_l2, squared_norm
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["IRMv1Module", "scale_derivatives"]


def scale_derivatives(outputs: Tensor, labels: Tensor, kind: LossKind) -> Tensor:
    """Return the derivative (n,) of each sample's loss by a factor of the outputs, at 1.

    Args:
        outputs: (n, classes), (n, 1) or (n,).
        labels: (n,), no −1 among them.
        kind: "classification" or "squared".

    Example:
        >>> import torch
        >>> scale_derivatives(torch.tensor([[2.0]]), torch.tensor([1.0]), "squared")
        tensor([4.])
    """
    if outputs.dim() == 1 or outputs.shape[1] == 1:
        outputs = outputs.reshape(-1)
        wanted = labels.to(outputs.dtype)
        return 2 * (outputs - wanted) * outputs if kind == "squared" else (outputs.sigmoid() - wanted) * outputs
    chosen = outputs.gather(1, labels[:, None]).squeeze(1)
    return (outputs.softmax(1) * outputs).sum(1) - chosen


class IRMv1Module(AbstractDomainModule):
    """One network under IRM's penalty: one player, and no opponent.

    Args:
        network: inputs (n, ...) -> logits (n, classes), or one logit or number (n, 1) per sample.
        num_environments: groups are in [0, num_environments), ≥ 2.
        penalty: λ from `anneal_steps` on, ≥ 0.
        anneal_steps: game steps with λ = 1 before that, ≥ 0.
        loss: "classification", cross-entropy; or "squared".
        l2: weight of the squared norm of all parameters, ≥ 0.
        game: default "GradientDescent", the optimizer's own step; or another rule that needs no opponent.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9).
        learning_rates: one number, or {"network": ...}; > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per step; or None.
        clip: largest norm of the direction, > 0, or None.

    A penalty is the square of a mean over the joint batch of all ranks. Micro-batches would have one each, so there is
    no `accumulate`.

    Raises:
        ConfigurationError: a setting out of its range; in training, a batch of another form.

    Example:
        >>> irm = IRMv1Module(nn.Linear(2, 1), penalty=100.0, anneal_steps=10)
        >>> irm.penalty_weight()
        1.0
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_environments: int = 2,
        penalty: float = 1e4,
        anneal_steps: int = 100,
        loss: LossKind = "classification",
        l2: float = 0.0,
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        learning_rates: float | Mapping[str, float] = 1e-3,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
    ) -> None:
        check_arguments(IRMv1Module, locals())
        super().__init__(
            num_groups=num_environments,
            counted="num_environments",
            loss=loss,
            game="GradientDescent" if game is None else game,
            optimizer=optimizer,
            learning_rates=learning_rates,
            scheduler=scheduler,
            clip=clip,
        )
        self.penalty = require_number("penalty", penalty, low=0.0, high=math.inf, why="it is a weight")
        check_count("IRMv1Module", "anneal_steps", anneal_steps, least=0)
        self.network, self.anneal_steps, self.l2 = network, anneal_steps, check_l2(l2)

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

    def penalty_weight(self) -> float:
        """Return λ_t of this game step."""
        return self.penalty if self.global_step >= self.anneal_steps else min(1.0, self.penalty)

    def risks_and_penalties(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return R_e and P_e of each environment, both (num_environments,).

        Args:
            batch: from the loader.
        """
        inputs, labels, groups = self.unpack_batch(batch)
        outputs = self(inputs)
        risks = group_means(sample_losses(outputs, labels, self.loss), groups, self.num_groups, self._counts)
        slopes = group_means(scale_derivatives(outputs, labels, self.loss), groups, self.num_groups, self._counts)
        return risks, self._over_ranks(slopes, len(groups)).square()

    def _over_ranks(self, slopes: Tensor, size: int) -> Tensor:
        """Return the mean over ranks, with the derivative of this rank's own: the mean of those is the joint one."""
        if self._trainer is None or self.trainer.world_size == 1:
            return slopes
        (mean,) = mean_over_ranks(self.trainer.strategy, size)((slopes.detach(),))
        return slopes + (mean - slopes).detach()

    def player_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the penalised risk."""
        risks, penalties = self.risks_and_penalties(batch)
        weight = self.penalty_weight()
        total = risks.mean() + weight * penalties.mean()
        if self.l2:
            total = total + self.l2 * squared_norm(self.network)
        return {"network": total / max(1.0, weight)}

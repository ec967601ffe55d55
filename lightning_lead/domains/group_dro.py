"""Group DRO: weights of groups on the simplex as a player, who raises those of the groups with the largest losses.

    q ← q ∘ exp(η ℓ(w)) / Σ_g q_g exp(η ℓ_g(w))        L_weights = −Σ_g q_g ℓ_g,   a mirror step at rate η
    w ← optimizer(w, ∇_w Σ_g q_g ℓ_g(w))               L_network = Σ_g q_g ℓ_g,    with the new q

ℓ_g is the mean loss of the batch's samples of group g; a group without any has 0, and its weight stays but for the
normalisation.

Reference: Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_rates
from lightning_lead._distributed import combine
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable
from lightning_lead.calculus._terms import OracleStatistics
from lightning_lead.constraints import AbstractConstraint, Simplex
from lightning_lead.domains._base import AbstractDomainModule
from lightning_lead.domains._losses import LossKind, group_means
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules.base import AbstractGameRule
from lightning_lead.training._log import is_due

__all__ = ["GroupDROModule"]


class GroupDROModule(AbstractDomainModule):
    """One network against weights of the groups, which move first.

    Logged are, beside losses, `weight/<g>` and `group_loss/<g>` of each group.

    Args:
        network: inputs (n, ...) -> logits (n, classes), or one logit or number (n, 1) per sample.
        num_groups: groups are in [0, num_groups), ≥ 2.
        step: η of the weights' mirror step, > 0.
        loss: "classification", cross-entropy; or "squared".
        game: rule, play and state; or a rule; or a name; default "AlternatingGDA", the algorithm of the paper.
        optimizer: of the network: param groups -> optimizer; default SGD. The weights have SGD at rate `step`.
        learning_rate: of the network, > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per game step, of the weights' steps too; or None.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: number of micro-batches that a batch is split into, ≥ 1.

    Attributes:
        group_weights: q, a parameter (num_groups,), on the simplex.

    Raises:
        ConfigurationError: a setting out of its range; in training, a batch of another form.

    Example:
        >>> dro = GroupDROModule(nn.Linear(2, 1), 4)
        >>> dro.group_weights.tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    _passing: ClassVar[tuple[str, ...]] = ("_group_losses",)

    def __init__(
        self,
        network: nn.Module,
        num_groups: int,
        *,
        step: float = 0.01,
        loss: LossKind = "classification",
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        learning_rate: float = 1e-2,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        check_arguments(GroupDROModule, locals())
        check_rates(step=step, learning_rate=learning_rate)
        super().__init__(
            num_groups=num_groups,
            counted="num_groups",
            loss=loss,
            game="AlternatingGDA" if game is None else game,
            optimizer={"weights": torch.optim.SGD, "network": optimizer or torch.optim.SGD},
            learning_rates={"weights": step, "network": learning_rate},
            scheduler=scheduler,
            clip=clip,
            accumulate=accumulate,
        )
        self.network = network
        dtype = next((p.dtype for p in network.parameters()), torch.get_default_dtype())
        self.group_weights = nn.Parameter(torch.full((num_groups,), 1 / num_groups, dtype=dtype))
        self._group_losses: Tensor | None = None

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return the weights of the groups, and the network's parameters, in the order of play."""
        return {"weights": [self.group_weights], "network": self.network.parameters()}

    def constraints(self) -> Mapping[str, AbstractConstraint]:
        """Return the simplex that the weights live on, where they make mirror steps."""
        return {"weights": Simplex(step="mirror")}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs.

        Args:
            inputs: (n, ...).
        """
        outputs: Tensor = self.network(inputs)
        return outputs

    def group_losses(self, batch: Any) -> Tensor:
        """Return ℓ_g of each group, (num_groups,).

        Args:
            batch: from the loader.
        """
        inputs, labels, groups = self.unpack_batch(batch)
        losses = self.sample_losses(self(inputs), labels)
        return group_means(losses, groups, self.num_groups, self._counts)

    def wanted_losses(self, batch: Any, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Return the losses in `wanted`."""
        # where nothing is differentiated through both players, as in a loop
        apart = self.game.rule.needs.evaluates_once and "network" not in wanted
        with torch.no_grad() if apart else nullcontext():
            losses = self.group_losses(batch)
        if "network" in wanted and not self.is_repeat:
            share = 1.0 if self._counts is None else len(self.unpack_batch(batch).inputs) / self._counts.samples
            so_far = 0.0 if self._group_losses is None else self._group_losses
            self._group_losses = so_far + losses.detach() * share  # over micro-batches
        total = (self.group_weights * losses).sum()
        both = {"weights": -total, "network": total}
        return {name: loss for name, loss in both.items() if name in wanted}

    def player_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return both players' losses, for evaluation loops of your own."""
        return self.wanted_losses(batch, frozenset({"weights", "network"}))

    def log_game_step(self, record: Mapping[str, OracleStatistics], notes: Mapping[str, float]) -> None:
        """Log what every game logs, and where a log line is due the groups, in the joint batch of all ranks."""
        super().log_game_step(record, notes)
        losses, self._group_losses = self._group_losses, None
        if losses is None or not is_due(self.trainer, self.trainer.global_step):
            return
        shown = {"weight": self.group_weights.detach(), "group_loss": combine(losses)}
        values = {f"{name}/{k}": value for name, each in shown.items() for k, value in enumerate(each.unbind())}
        self.log_dict(values, on_step=True, on_epoch=False)

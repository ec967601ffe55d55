"""Domain-adversarial training: features that serve a classifier, and from which no discriminator can tell the domain.

    L_features = CE(labels of labelled samples) − λ CE(domains),          L_domains = CE(domains)

The features and the classifier are one player, the discriminator of domains the other. The sign stands in the loss and
not in a gradient reversal layer, whose backward is the derivative of no loss: cross terms would come out wrong.

With `schedule_steps` T the weight grows with the game steps t:  λ_t = λ (2 / (1 + exp(−10 t/T)) − 1).

Reference: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, equations (9) and (10), and
section 5.2.2 for the schedule; as a game: Acuna, Law, Zhang and Fidler, "Domain Adversarial Training: A Game
Perspective", ICLR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable
from lightning_lead.calculus._terms import COUPLED, OracleStatistics
from lightning_lead.domains._base import AbstractDomainModule
from lightning_lead.domains._losses import labelled_mean, sample_losses
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["DANNModule"]


class DANNModule(AbstractDomainModule):
    """Features and a classifier against a discriminator of domains; the features move first.

    Batches are (inputs, labels, groups) with labels of −1 where none is known: of the target domain, commonly.

    Args:
        features: inputs (n, ...) -> features (n, ...).
        classifier: features -> logits (n, classes), or one logit (n, 1) of class 1 of two.
        discriminator: features -> logits (n, num_domains), or for two domains one logit (n, 1) of domain 1.
        num_domains: groups are in [0, num_domains), ≥ 2.
        weight: λ of the adversarial part, ≥ 0.
        schedule_steps: game steps over which the weight grows to 0.99991 of λ, ≥ 1; None for λ from the start.
        game: rule, play and state; or a rule; or a name, as in "ExtraAdam"; default `LEADStrategy()`.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9).
        learning_rates: one for both players, or {"features": ..., "domains": ...}; > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per game step; or None.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: number of micro-batches that a batch is split into, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range; in training, a batch of another form, or a discriminator whose
            outputs do not fit the number of domains.

    Example:
        >>> dann = DANNModule(nn.Linear(2, 8), nn.Linear(8, 1), nn.Linear(8, 1))
        >>> batch = torch.zeros(4, 2), torch.tensor([0, 1, -1, -1]), torch.tensor([0, 0, 1, 1])
        >>> sorted(dann.player_losses(batch))
        ['domains', 'features']
    """

    takes_unlabelled = True

    def __init__(
        self,
        features: nn.Module,
        classifier: nn.Module,
        discriminator: nn.Module,
        *,
        num_domains: int = 2,
        weight: float = 1.0,
        schedule_steps: int | None = None,
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        learning_rates: float | Mapping[str, float] = 1e-3,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        check_arguments(DANNModule, locals())
        super().__init__(
            num_groups=num_domains,
            counted="num_domains",
            loss="classification",
            game=game,
            optimizer=optimizer,
            learning_rates=learning_rates,
            scheduler=scheduler,
            clip=clip,
            accumulate=accumulate,
        )
        why = "it is the share of the adversarial part in the features' loss"
        self.weight = require_number("weight", weight, low=0.0, high=math.inf, why=why)
        check_positive(schedule_steps=schedule_steps)
        self.schedule_steps = schedule_steps
        self.features, self.classifier, self.discriminator = features, classifier, discriminator

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return the parameters of features and classifier, and those of the discriminator, in the order of play."""
        both = [*self.features.parameters(), *self.classifier.parameters()]
        return {"features": both, "domains": self.discriminator.parameters()}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the classifier's logits.

        Args:
            inputs: (n, ...).
        """
        logits: Tensor = self.classifier(self.features(inputs))
        return logits

    def adversarial_weight(self) -> float:
        """Return λ_t of this game step."""
        # the look finds out what the game will be
        return self.weight if self.is_looked_at else self._weight_at(self.global_step)

    def _weight_at(self, step: int) -> float:
        if self.schedule_steps is None:
            return self.weight
        return self.weight * math.tanh(5.0 * step / self.schedule_steps)  # 2/(1 + exp(−2x)) − 1 = tanh x

    def domain_loss(self, features: Tensor, groups: Tensor) -> Tensor:
        """Return the discriminator's mean cross-entropy.

        Args:
            features: of all samples.
            groups: (n,), the domain of each.
        """
        logits: Tensor = self.discriminator(features)
        wide = logits.shape[1] if logits.dim() == 2 else 1 if logits.dim() == 1 else 0
        if wide != self.num_groups and not (wide == 1 and self.num_groups == 2):
            one = "one logit or " if self.num_groups == 2 else ""
            raise ConfigurationError(
                f"Cannot tell {self.num_groups} domains apart by the discriminator's outputs; let it return {one}"
                f"{self.num_groups} logits per sample, or set num_domains (got shape {tuple(logits.shape)})"
            )
        return sample_losses(logits, groups, "classification").mean()

    def wanted_losses(self, batch: Any, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Return the losses in `wanted`, and the part of the features' in which the players meet."""
        inputs, labels, groups = self.unpack_batch(batch)
        # where nothing is differentiated through both players, as in a loop
        apart = self.game.rule.needs.evaluates_once and "features" not in wanted
        with torch.no_grad() if apart else nullcontext():
            features = self.features(inputs)
        confusion = self.domain_loss(features, groups)
        losses: dict[str, Tensor] = {}
        if "domains" in wanted:
            losses["domains"] = confusion
        if "features" in wanted:
            own = labelled_mean(self.sample_losses(self.classifier(features), labels), labels, self._counts)
            meeting = -self.adversarial_weight() * confusion
            losses |= {"features": own + meeting, COUPLED + "features": meeting}
        return losses

    def player_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return both players' losses, for evaluation loops of your own."""
        losses = self.wanted_losses(batch, frozenset({"features", "domains"}))
        return {name: losses[name] for name in ("features", "domains")}

    def log_game_step(self, record: Mapping[str, OracleStatistics], notes: Mapping[str, float]) -> None:
        """Log what every game logs, and the weight where it changes."""
        super().log_game_step(record, notes)
        if self.schedule_steps is not None:
            played = torch.tensor(self._weight_at(self.global_step - 1))  # the step has been counted
            self.log("adversarial_weight", played, on_step=True, on_epoch=False)

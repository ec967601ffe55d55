"""LeadModule: any two players, with optimizers and schedulers that need no more than their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_rates
from lightning_lead._errors import ConfigurationError, first_line
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable, rank_zero_info
from lightning_lead.calculus._players import listed
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules.base import AbstractGameRule
from lightning_lead.training.mixin import LeadMixin

__all__ = ["LeadModule"]


class LeadModule(LeadMixin):
    """Any two players: implement `players()` and `player_losses(batch)`; the rest has defaults.

    Args:
        game: rule, play and state; or a rule; or a name, as in "ExtraAdam"; default `LEADStrategy()`, the exact term
            with a coupling that follows the optimizer's momentum.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9). A rule that takes plain steps, as
            `ACGD`, gets SGD in its place.
        learning_rates: one for both players, or player -> learning rate; > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per game step; or None.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: number of micro-batches that a batch is split into, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> from torch import nn
        >>> class Saddle(LeadModule):
        ...     def __init__(self):
        ...         super().__init__(learning_rates=0.1)
        ...         self.x, self.y = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        ...     def players(self):
        ...         return {"x": [self.x], "y": [self.y]}
        ...     def player_losses(self, batch):
        ...         f = (self.x * self.y).mean()
        ...         return {"x": f, "y": -f}
        >>> Saddle().game
        GameStrategy(LEAD, play='alternating')
    """

    def __init__(
        self,
        *,
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        learning_rates: float | Mapping[str, float] = 2e-4,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        check_arguments(LeadModule, locals())
        super().__init__(game=game, clip=clip, accumulate=accumulate)
        rates = learning_rates.values() if isinstance(learning_rates, Mapping) else [learning_rates]
        for rate in rates:
            check_rates(learning_rates=rate)
        self._optimizer, self._scheduler, self._rates = optimizer, scheduler, learning_rates

    def configure_optimizers(self) -> Any:
        """Return one optimizer, with a named param group per player, frozen parameters included, and the scheduler."""
        make: Callable[..., torch.optim.Optimizer] = self._optimizer or _default_optimizer
        if self.game.rule.needs.requires_sgd:
            make = torch.optim.SGD
            if self._optimizer is not None:
                rank_zero_info(f"{self.game.rule.name} adapts its steps itself: plain SGD moves the weights")
        groups = []
        players = listed(self.players())
        if isinstance(self._rates, Mapping) and set(self._rates) != set(players):
            raise ConfigurationError(
                f"Cannot give each player its learning rate; name both players in learning_rates: {list(players)} "
                f"(got {list(self._rates)})"
            )
        for name, parameters in players.items():
            rate = self._rates[name] if isinstance(self._rates, Mapping) else self._rates
            groups.append({"params": parameters, "lr": rate, "name": name})
        try:
            optimizer = make(groups)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"Cannot build the optimizer because it does not take param groups with a learning rate each; pass a "
                f"function of them, as lambda groups: torch.optim.Adam(groups) (got {first_line(error)})"
            ) from error
        if self._scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "step"}}


def _default_optimizer(groups: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=2e-4, betas=(0.0, 0.9))

"""LeadModule: any players, with optimizers and schedulers that need no more than their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Any players: implement `players()` and `player_losses(batch)`; the rest has defaults.

    Args:
        game: rule, play and state; or a rule; or a name, as in "ExtraAdam"; default `LEADStrategy()`, the exact term
            with a coupling that follows the optimizer's momentum.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9). Or player -> such a function, for
            players that move differently; then each has an optimizer of its own. A rule that takes plain steps, as
            `ACGD`, gets SGD in its place.
        learning_rates: one for all players, or player -> learning rate; > 0.
        scheduler: optimizer -> learning-rate scheduler, stepped once per game step; or None. Of several optimizers each
            has one.
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
        optimizer: OptimizerCallable | Mapping[str, OptimizerCallable] | None = None,
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
        """Return one optimizer, with a named param group per player, or one per player; and a scheduler of each.

        Frozen parameters are in their groups.
        """
        groups = {name: self._group(name, parameters) for name, parameters in listed(self.players()).items()}
        for what, given in (("optimizer", self._optimizer), ("learning rate", self._rates)):
            if isinstance(given, Mapping) and set(given) != set(groups):
                raise ConfigurationError(
                    f"Cannot give each player its {what}; name all players: {list(groups)} (got {list(given)})"
                )
        make = self._optimizer
        if self.game.rule.needs.requires_sgd:
            if make is not None:
                rank_zero_info(f"{self.game.rule.name} adapts its steps itself: plain SGD moves the weights")
            make = torch.optim.SGD
        if isinstance(make, Mapping):
            optimizers = [_made(make[name], [group]) for name, group in groups.items()]
        else:
            optimizers = [_made(make or _default_optimizer, list(groups.values()))]
        configured: list[Any] = list(optimizers)
        if self._scheduler is not None:
            schedulers = [{"scheduler": self._scheduler(each), "interval": "step"} for each in optimizers]
            pairs = zip(optimizers, schedulers, strict=True)
            configured = [{"optimizer": optimizer, "lr_scheduler": scheduler} for optimizer, scheduler in pairs]
        return configured[0] if len(configured) == 1 else configured

    def _group(self, name: str, parameters: Sequence[torch.nn.Parameter]) -> dict[str, Any]:
        rate = self._rates.get(name, 0.0) if isinstance(self._rates, Mapping) else self._rates
        return {"params": parameters, "lr": rate, "name": name}


def _made(make: Callable[..., torch.optim.Optimizer], groups: Sequence[Any]) -> torch.optim.Optimizer:
    try:
        return make(groups)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Cannot build the optimizer because it does not take param groups with a learning rate each; pass a "
            f"function of them, as lambda groups: torch.optim.Adam(groups) (got {first_line(error)})"
        ) from error


def _default_optimizer(groups: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=2e-4, betas=(0.0, 0.9))

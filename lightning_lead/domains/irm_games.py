"""IRM games: a network per environment as a player, and their average as the predictor of all.

    f(x) = (1/E) Σ_e f_e(x),        L_e = mean over environment e of ℓ(f(x), y),  minimised by the parameters of f_e

An equilibrium in which no bound is active is invariant. With a bound |w| ≤ B on every coefficient of linear networks
and two environments with independent features, the average has in each coefficient the smaller of both environments'
least squares solutions, and 0 where their signs differ: what is not the same everywhere is given up.

References: Ahuja, Shanmugam, Varshney and Dhurandhar, "Invariant Risk Minimization Games", ICML 2020 (with a fixed
representation, the inputs); Ahuja, Shanmugam and Dhurandhar, "Linear Regression Games: Convergence Guarantees to
Approximate Out-of-Distribution Solutions", AISTATS 2021 (the bound).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import LRSchedulerCallable, OptimizerCallable
from lightning_lead.constraints import AbstractConstraint, Box
from lightning_lead.domains._base import AbstractDomainModule
from lightning_lead.domains._losses import LossKind
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["IRMGamesModule"]

_PLAYER = "environment"


class IRMGamesModule(AbstractDomainModule):
    """A network for each environment, each a player; the prediction is their average.

    Args:
        networks: one for each environment, in the order of the groups: inputs -> outputs of one shape.
        bound: largest absolute value of every parameter, > 0, or None.
        loss: "classification", cross-entropy; or "squared".
        game: rule, play and state; or a rule; or a name; default "AlternatingGDA", the algorithm of the paper.
        optimizer: param groups -> optimizer; default Adam with betas (0, 0.9).
        learning_rates: one for all players, or player -> learning rate; > 0. The players are "environment0" and so on.
        scheduler: optimizer -> learning-rate scheduler, stepped once per game step; or None.
        clip: largest norm of a player's direction, > 0, or None.
        accumulate: number of micro-batches that a batch is split into, ≥ 1.

    Raises:
        ConfigurationError: one network alone, one twice, or a setting out of its range; in training, a batch of another
            form.

    Example:
        >>> games = IRMGamesModule([nn.Linear(4, 1), nn.Linear(4, 1)], loss="squared", bound=5.0)
        >>> list(games.players()), games(torch.zeros(3, 4)).shape
        (['environment0', 'environment1'], torch.Size([3, 1]))
    """

    _passing: ClassVar[tuple[str, ...]] = ("_sorted",)

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        bound: float | None = None,
        loss: LossKind = "classification",
        game: GameStrategy | AbstractGameRule | str | None = None,
        optimizer: OptimizerCallable | None = None,
        learning_rates: float | Mapping[str, float] = 1e-3,
        scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        accumulate: int = 1,
    ) -> None:
        check_arguments(IRMGamesModule, locals())
        super().__init__(
            num_groups=len(networks),
            counted="a list of networks",
            loss=loss,
            game="AlternatingGDA" if game is None else game,
            optimizer=optimizer,
            learning_rates=learning_rates,
            scheduler=scheduler,
            clip=clip,
            accumulate=accumulate,
        )
        if len({id(network) for network in networks}) < len(networks):
            raise ConfigurationError(
                "Cannot build IRMGamesModule because a network belongs to several environments; pass one for each"
            )
        if bound is not None:
            why = "it is the largest absolute value of a parameter"
            require_number("bound", bound, low=0.0, high=math.inf, why=why, closed=False)
        self.networks, self.bound = nn.ModuleList(networks), bound
        self._sorted: list[tuple[Tensor, int, Sequence[Tensor]]] = []  # of a game step: groups, their rows

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Return the parameters of each environment's network, in the order of play."""
        return {f"{_PLAYER}{k}": network.parameters() for k, network in enumerate(self.networks)}

    def constraints(self) -> Mapping[str, AbstractConstraint]:
        """Return the bound of every player, if there is one."""
        if self.bound is None:
            return {}
        return dict.fromkeys(self.players(), Box(-self.bound, self.bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the average of all networks' outputs.

        Args:
            inputs: (n, ...).
        """
        return torch.stack([network(inputs) for network in self.networks]).mean(0)

    def player_loss(self, name: str, batch: Any) -> Tensor:
        """Return the mean loss of the average over the samples of the player's own environment.

        Args:
            name: "environment0" and so on.
            batch: from the loader.
        """
        inputs, labels, groups = self.unpack_batch(batch)
        number = int(name.removeprefix(_PLAYER))
        own = self._rows(groups)[number]
        losses = self.sample_losses(self(inputs[own]), labels[own])
        if self._counts is None:
            return losses.sum() / max(1, len(losses))
        counts = self._counts
        return losses.sum() * counts.samples / (max(1, len(groups)) * counts.of_groups[number].clamp(min=1))

    def _rows(self, groups: Tensor) -> Sequence[Tensor]:
        """Return the rows of each environment's samples, in order.

        How many there are is read on the host, once per batch of a game step, whose turns have it in common. A mask
        would wait in every loss; weights of 0 and 1 would wait nowhere, and run each sample once per environment.
        """
        within = self._open is not None
        for of, version, known in self._sorted if within else ():
            if of is groups and version == groups._version:
                return known
        rows: Sequence[Tensor] = groups.argsort(stable=True).split(one_hot(groups, self.num_groups).sum(0).tolist())
        if within:
            self._sorted.append((groups, groups._version, rows))
        return rows

    def _follow_step(self) -> None:
        super()._follow_step()
        self._sorted.clear()

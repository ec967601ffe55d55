"""A host of game steps besides the trainer: any losses of any players, with constraints, on one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead.calculus import GameOracle, Lookahead
from lightning_lead.constraints import AbstractConstraint
from lightning_lead.engine import GameStep, GameStrategy
from lightning_lead.engine.turns import Turn
from lightning_lead.rules import AbstractGameRule

__all__ = ["Host"]

Losses = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Host:
    """A game of one tensor per player, moved by SGD or another optimizer, one game step at a time."""

    def __init__(
        self,
        rule: AbstractGameRule,
        losses: Losses,
        start: Mapping[str, Tensor],
        *,
        lr: float,
        play: Any = None,
        constraints: Mapping[str, AbstractConstraint] | None = None,
        optimizer: Any = torch.optim.SGD,
        turns: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        self.game = GameStrategy(rule, play=play, skip_limit=None)
        self._losses, self._constraints = losses, constraints or {}
        self.live = {name: [nn.Parameter(value.detach().clone())] for name, value in start.items()}
        self._optimizer = optimizer([{"params": params, "lr": lr} for params in self.live.values()], lr=lr)
        self.game.start(self._point())
        names = tuple(start)
        apart = [(name,) for name in names] if self.game.play == "alternating" else [names]
        self._turns = [Turn(players, [None], 1) for players in turns or apart]

    def _point(self) -> dict[str, tuple[Tensor, ...]]:
        return {name: tuple(params) for name, params in self.live.items()}

    def values(self) -> dict[str, Tensor]:
        """The players' points."""
        return {name: params[0].detach().clone() for name, params in self.live.items()}

    def step(self) -> None:
        """Play one game step."""
        lookahead = Lookahead(self.live, [self._optimizer], constraints=self._constraints)

        def losses(point: Any, wanted: Any, *, replay: bool) -> Mapping[str, Tensor]:
            return self._losses({name: vector[0] for name, vector in point.items()})

        def make_oracle(turn: Turn, seed: int) -> GameOracle:
            return GameOracle(self._point(), [losses], lookahead=lookahead)

        GameStep(
            self.game,
            self._turns,
            self.live,
            optimizers=[self._optimizer],
            lookahead=lookahead,
            make_oracle=make_oracle,
        ).play()

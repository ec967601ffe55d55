"""Play a rule on a small game without a trainer: the same oracle and look-ahead, and an optimizer of `torch.optim`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Play, Point
from lightning_lead.calculus.lookahead import Lookahead
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.engine.step import GameStep
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.engine.turns import Turn
from lightning_lead.games.base import AbstractGame
from lightning_lead.rules.base import AbstractGameRule, RuleState

__all__ = ["Match", "OptimizerFactory", "Path", "simulate"]

OptimizerFactory = Callable[[Iterable[Any]], torch.optim.Optimizer]


class Path(NamedTuple):
    """The path of a match.

    Example:
        >>> Path(torch.zeros(2, 2), [1.0, 0.5], {"gradients": 2}).distances[-1]
        0.5
    """

    points: Tensor  # (steps + 1, n + m), x first
    distances: list[float]  # from the equilibrium, steps + 1 of them
    evaluations: dict[str, int]  # "gradients" and "hessian_products" asked for, in all


@final
class Match:
    """A rule, a game and an optimizer, one game step at a time.

    Args:
        rule: the game optimizer.
        game: what is played.
        lr: step size η, > 0.
        play: order of play; default the rule's own.
        optimizer: param groups -> optimizer; default SGD without momentum. The learning rate is `lr` in any case.
        start: the first point; default a standard-normal one.

    Raises:
        ConfigurationError: a step size out of its range, or an order of play that the rule is not defined for.

    Example:
        >>> from lightning_lead.games import QuadraticGame
        >>> from lightning_lead.rules import GradientPlay
        >>> match = Match(GradientPlay(), QuadraticGame([[1.0]], curvature=1.0), lr=0.5)
        >>> before = match.distance
        >>> match.step()
        >>> match.distance < before
        True
    """

    def __init__(
        self,
        rule: AbstractGameRule,
        game: AbstractGame,
        *,
        lr: float,
        play: Play | None = None,
        optimizer: OptimizerFactory | None = None,
        start: Point | None = None,
    ) -> None:
        check_arguments(Match, locals())
        if not (math.isfinite(lr) and lr > 0):
            raise ConfigurationError(f"Cannot step by lr={lr!r}; pass a finite step size > 0")
        self.strategy = GameStrategy(rule, play=play, skip_limit=None)  # a path may leave for infinity
        self.rule, self.game = rule, game
        self.play: Play = self.strategy.play
        begin = start if start is not None else game.random_point(seed=0)
        self.parameters = {name: [nn.Parameter(p.detach().clone()) for p in begin[name]] for name in game.players}
        groups = [{"params": params, "lr": lr} for params in self.parameters.values()]
        self.optimizer = optimizer(groups) if optimizer is not None else torch.optim.SGD(groups, lr=lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.strategy.start({name: tuple(params) for name, params in self.parameters.items()})
        self.evaluations: Counter[str] = Counter()

    @property
    def point(self) -> dict[str, tuple[Tensor, ...]]:
        """The players' parameters now, detached."""
        return {name: tuple(p.detach() for p in params) for name, params in self.parameters.items()}

    @property
    def state(self) -> RuleState:
        """The rule's state."""
        return self.strategy.state or {}

    @state.setter
    def state(self, state: RuleState) -> None:
        self.strategy.state = state

    @property
    def distance(self) -> float:
        """From the equilibrium."""
        return self.game.distance(self.point)

    def step(self, movers: Sequence[tuple[str, ...]] | None = None) -> None:
        """Play one game step: every player moves.

        Args:
            movers: who moves, turn by turn; default every player once, in the order of play.
        """
        names = tuple(self.parameters)
        if movers is None:
            movers = [names] if self.play == "simultaneous" else [(name,) for name in names]
        lookahead = Lookahead(self.parameters, [self.optimizer])

        def make_oracle(turn: Turn, seed: int) -> GameOracle:
            return GameOracle(
                {name: tuple(params) for name, params in self.parameters.items()},
                [lambda point, wanted, *, replay: self.game.losses(point)],
                lookahead=lookahead,
                inspect=False,
            )

        played = GameStep(
            self.strategy,
            [Turn(players, [None], 1) for players in movers],
            self.parameters,
            optimizers=[self.optimizer],
            lookahead=lookahead,
            make_oracle=make_oracle,
        ).play()
        self.evaluations.update(played.evaluations)


def simulate(
    rule: AbstractGameRule,
    game: AbstractGame,
    *,
    lr: float,
    steps: int,
    play: Play | None = None,
    optimizer: OptimizerFactory | None = None,
    start: Point | None = None,
) -> Path:
    """The path of a match.

    Args:
        rule: the game optimizer.
        game: what is played.
        lr: step size η, > 0.
        steps: game steps, ≥ 0.
        play: order of play; default the rule's own.
        optimizer: param groups -> optimizer; default SGD without momentum.
        start: the first point; default a standard-normal one.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> from lightning_lead.rules import LEAD
        >>> path = simulate(LEAD(coupling=1.0), BilinearGame([[1.0]]), lr=0.3, steps=100)
        >>> path.points.shape, path.distances[-1] < 1e-3
        (torch.Size([101, 2]), True)
    """
    match = Match(rule, game, lr=lr, play=play, optimizer=optimizer, start=start)
    points, distances = [_flat(match.point)], [match.distance]
    for _ in range(steps):
        match.step()
        points.append(_flat(match.point))
        distances.append(match.distance)
    return Path(torch.stack(points), distances, dict(match.evaluations))


def _flat(point: Point) -> Tensor:
    return torch.cat([p.reshape(-1) for vector in point.values() for p in vector]).clone()

"""The update operator of a rule on a game, found by probing: a period of game steps as an affine map of its memory.

    s⁺ = M s + b,       s = (players' parameters, the rule's state, the optimizer's state)

For an affine rule on a quadratic game the distance shrinks by the spectral radius of M per period, in the long run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Play
from lightning_lead.analysis.play import Match, OptimizerFactory
from lightning_lead.games.base import AbstractGame
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["UpdateOperator", "spectral_radius", "update_operator"]


class UpdateOperator(NamedTuple):
    """s⁺ = M s + b over `period` game steps.

    Example:
        >>> UpdateOperator(torch.eye(2) / 4, torch.zeros(2), period=2).radius
        0.5
    """

    matrix: Tensor  # M, (k, k)
    offset: Tensor  # b, (k,)
    period: int  # game steps

    @property
    def eigenvalues(self) -> Tensor:
        """Of M, (k,) complex."""
        values: Tensor = torch.linalg.eigvals(self.matrix)
        return values

    @property
    def radius(self) -> float:
        """The largest eigenvalue's modulus, per game step."""
        largest = float(self.eigenvalues.abs().max())
        return float(largest ** (1 / self.period))


def update_operator(
    rule: AbstractGameRule,
    game: AbstractGame,
    *,
    lr: float,
    play: Play | None = None,
    optimizer: OptimizerFactory | None = None,
) -> UpdateOperator:
    """M and b, column by column: what one period of game steps makes of each unit vector of memory.

    Args:
        rule: an affine one; others have no such operator.
        game: with affine gradients, as the quadratic and bilinear ones.
        lr: step size η, > 0.
        play: order of play; default the rule's own.
        optimizer: an affine one, as SGD with momentum; default SGD without.

    Raises:
        ConfigurationError: the rule, or the game under it, is not affine.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> from lightning_lead.rules import GradientPlay
        >>> operator = update_operator(GradientPlay(), BilinearGame([[2.0]]), lr=0.5, play="simultaneous")
        >>> operator.matrix.tolist()
        [[1.0, -1.0], [1.0, 1.0]]
    """
    if not rule.affine:
        raise ConfigurationError(
            f"Cannot find the update operator of {rule.name} because its step is not affine; simulate it instead"
        )
    match = Match(rule, game, lr=lr, play=play, optimizer=optimizer)
    for _ in range(2 * rule.period):  # by then every memory is there
        match.step()
    size = sum(t.numel() for t in _memory(match))

    def image(vector: Tensor) -> Tensor:
        _write(match, vector)
        for _ in range(rule.period):
            match.step()
        return torch.cat([t.detach().reshape(-1) for t in _memory(match)]).clone()

    basis = torch.eye(size, dtype=game.dtype)
    offset = image(torch.zeros(size, dtype=game.dtype))
    matrix = torch.stack([image(unit) - offset for unit in basis], dim=1)
    test = torch.linspace(-1.0, 2.0, size, dtype=game.dtype)
    off = (image(test) - matrix @ test - offset).abs().max()
    if not off <= 1e-8 * (1 + matrix.abs().max()):
        raise ConfigurationError(
            f"Cannot find the update operator because {rule.name} is not affine on {type(game).__name__}; use a game "
            f"with affine gradients and an affine optimizer (got a deviation of {float(off):.1e})"
        )
    return UpdateOperator(matrix, offset, rule.period)


def spectral_radius(
    rule: AbstractGameRule,
    game: AbstractGame,
    *,
    lr: float,
    play: Play | None = None,
    optimizer: OptimizerFactory | None = None,
) -> float:
    """The factor by which the distance shrinks per game step, in the long run; above 1 it grows.

    Args:
        rule: an affine one.
        game: with affine gradients.
        lr: step size η, > 0.
        play: order of play; default the rule's own.
        optimizer: an affine one; default SGD without momentum.

    Raises:
        ConfigurationError: the rule, or the game under it, is not affine.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> from lightning_lead.rules import GradientPlay
        >>> round(spectral_radius(GradientPlay(), BilinearGame([[1.0]]), lr=0.5, play="simultaneous"), 6)
        1.118034
    """
    return update_operator(rule, game, lr=lr, play=play, optimizer=optimizer).radius


def _memory(match: Match) -> list[Tensor]:
    """All numbers that the next game step depends on, in a fixed order."""
    params = [p.detach() for params in match.parameters.values() for p in params]
    return [*params, *_tensors(match.state), *_tensors([match.optimizer.state.get(p, {}) for p in _parameters(match)])]


def _parameters(match: Match) -> list[Tensor]:
    return [p for params in match.parameters.values() for p in params]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0:
        yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _write(match: Match, vector: Tensor) -> None:
    match.state = _copied(match.state)  # a rule may hand out a tensor twice
    slots = _memory(match)
    for slot, part in zip(slots, vector.split([t.numel() for t in slots]), strict=True):
        slot.copy_(part.view_as(slot))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value

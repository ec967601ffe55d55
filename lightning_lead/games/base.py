"""The base of small games: two vectors x and y, a loss for each player, and the exact answers to compare with.

    v(x, y) = (∇ₓ Lₓ, ∇ᵧ Lᵧ)          joint vector field; simultaneous gradient play is (x, y)⁺ = (x, y) − η v
    J(x, y) = ∂v / ∂(x, y)             its Jacobian, rows and columns in the order x, then y

Reference: Balduzzi et al., "The Mechanics of n-Player Differentiable Games", ICML 2018, section 2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector

__all__ = ["AbstractGame"]


class AbstractGame(ABC):
    """A game of two players, "x" and "y", each with one vector and its own loss to minimise.

    A point of the game is a mapping from a player's name to a tuple of tensors, here always a single vector each, so
    the same point goes to the derivatives in `lightning_lead.calculus`. A subclass is final: it defines the abstract
    methods and overrides nothing else.

    Args:
        dimensions: lengths of x and of y, each at least 1.
        dtype: floating-point type of the game's constants and of the points it makes.

    Raises:
        ConfigurationError: if a length is below 1 or `dtype` is not a real floating-point type.

    Example:
        >>> from lightning_lead.games import AbstractGame, QuadraticGame
        >>> game: AbstractGame = QuadraticGame([[2.0]], curvature=0.5)
        >>> point = game.point(torch.tensor([3.0]), torch.tensor([4.0]))
        >>> game.distance(point)
        5.0
        >>> {player: loss.item() for player, loss in game.losses(point).items()}
        {'x': 22.25, 'y': -22.25}
    """

    players: tuple[str, str] = ("x", "y")

    def __init__(self, *, dimensions: tuple[int, int], dtype: torch.dtype) -> None:
        if not dtype.is_floating_point:
            raise ConfigurationError(
                f"Cannot build {type(self).__name__} because its parameters are differentiated; "
                f"pass a real floating-point dtype such as torch.float64 (got {dtype})."
            )
        if min(dimensions) < 1:
            raise ConfigurationError(
                f"Cannot build {type(self).__name__} because a player without parameters has nothing to play; "
                f"give x and y at least one entry each (got {dimensions[0]} and {dimensions[1]})."
            )
        self.dimensions = dimensions
        self.dtype = dtype

    @abstractmethod
    def losses(self, point: Point) -> dict[str, Tensor]:
        """Loss of each player, differentiable twice in both.

        Args:
            point: where to evaluate; x of shape (n,) and y of shape (m,).

        Returns:
            One scalar per player.
        """

    @abstractmethod
    def field(self, point: Point) -> dict[str, Vector]:
        """Joint vector field in closed form: each player's gradient of its own loss.

        Args:
            point: where to evaluate; x of shape (n,) and y of shape (m,).

        Returns:
            A point-like mapping: (∇ₓ Lₓ,) of shape (n,) and (∇ᵧ Lᵧ,) of shape (m,).
        """

    @abstractmethod
    def jacobian(self, point: Point) -> Tensor:
        """Jacobian of the joint vector field in closed form.

        Args:
            point: where to evaluate; x of shape (n,) and y of shape (m,).

        Returns:
            Dense matrix of shape (n + m, n + m), x first.
        """

    @final
    def equilibrium(self) -> dict[str, Vector]:
        """The game's only Nash equilibrium, which is the origin in every game of this package."""
        n, m = self.dimensions
        return self.point(torch.zeros(n), torch.zeros(m))

    @final
    def distance(self, point: Point) -> float:
        """Euclidean distance of the joint vector (x, y) from the equilibrium."""
        vectors = zip(self._vectors(point), self._vectors(self.equilibrium()), strict=True)
        return float(torch.cat([here.detach() - answer for here, answer in vectors]).norm())

    @final
    def point(self, x: Tensor | Sequence[float], y: Tensor | Sequence[float]) -> dict[str, Vector]:
        """A point of this game from two vectors, converted to the game's dtype.

        Args:
            x: first player's vector, shape (n,).
            y: second player's vector, shape (m,).

        Returns:
            Mapping from player to a one-tensor tuple; a tensor that already has the game's dtype is not copied.

        Raises:
            ConfigurationError: if a shape does not fit the game.
        """
        point: dict[str, Vector] = {
            "x": (torch.as_tensor(x, dtype=self.dtype),),
            "y": (torch.as_tensor(y, dtype=self.dtype),),
        }
        self._vectors(point)
        return point

    @final
    def random_point(self, *, seed: int) -> dict[str, Vector]:
        """A standard-normal point that is a function of `seed` alone; torch's global generator is not touched."""
        generator = torch.Generator().manual_seed(seed)
        n, m = self.dimensions
        return self.point(*(torch.randn(size, generator=generator, dtype=self.dtype) for size in (n, m)))

    @final
    def _vectors(self, point: Point) -> tuple[Tensor, Tensor]:
        """Both vectors of a point, after checking that it is a point of this game."""
        for player, size in zip(self.players, self.dimensions, strict=True):
            shapes = [tuple(tensor.shape) for tensor in point[player]] if player in point else []
            if shapes != [(size,)]:
                raise ConfigurationError(
                    f"Cannot evaluate {type(self).__name__} because player {player!r} needs exactly one tensor of "
                    f"shape ({size},); build the point with game.point(x, y) (got shapes {shapes})."
                )
        return point["x"][0], point["y"][0]

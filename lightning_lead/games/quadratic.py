"""The quadratic game: the bilinear one with curvature that pulls both players to the equilibrium.

    Lₓ = h/2·|x|² + xᵀAy − h/2·|y|²,  Lᵧ = −Lₓ
    v = (hx + Ay, hy − Aᵀx),   J = [[hI, A], [−Aᵀ, hI]],   eigenvalues h ± iσ

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector
from lightning_lead.games._matrices import as_coupling, require_unique_equilibrium
from lightning_lead.games.base import AbstractGame
from lightning_lead.games.bilinear import BilinearGame

__all__ = ["QuadraticGame"]


@final
class QuadraticGame(AbstractGame):
    """Zero-sum game h/2·|x|² + xᵀAy − h/2·|y|²: x minimises, y maximises.

    Args:
        coupling: the matrix A, shape (n, m); square and of full rank if `curvature` is 0.
        curvature: h, at least 0; 0 is the bilinear game.
        dtype: floating-point type of A and of the points made by this game.

    Raises:
        ConfigurationError: if h is negative or not finite, or A is not a finite matrix (of full rank for h = 0).

    Example:
        With step size h/(h² + σ²) gradient play contracts by σ/√(h² + σ²) a step:

        >>> game = QuadraticGame([[2.0]], curvature=1.0)
        >>> point = game.point([1.0], [0.0])
        >>> for _ in range(10):
        ...     field = game.field(point)
        ...     point = {player: (point[player][0] - 0.2 * field[player][0],) for player in game.players}
        >>> f"{game.distance(point):.4f} = {0.8**5:.4f}"
        '0.3277 = 0.3277'
    """

    def __init__(
        self,
        coupling: Tensor | Sequence[Sequence[float]],
        *,
        curvature: float,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        check_arguments(QuadraticGame, locals())
        if not (math.isfinite(curvature) and curvature >= 0):
            raise ConfigurationError(
                "Cannot build QuadraticGame because negative curvature pushes both players away from the origin; "
                f"pass a finite curvature of at least 0 (got {curvature})."
            )
        self.coupling = as_coupling(coupling, dtype=dtype, owner="QuadraticGame")
        self.curvature = float(curvature)
        n, m = self.coupling.shape
        super().__init__(dimensions=(n, m), dtype=dtype)
        if self.curvature == 0:
            require_unique_equilibrium(self.coupling, owner="QuadraticGame")

    @classmethod
    def of_adversarialness(
        cls,
        level: float,
        singular_values: Sequence[float],
        *,
        seed: int,
        dtype: torch.dtype = torch.float64,
    ) -> QuadraticGame:
        """A game between two minimisers that do not meet and a bilinear one: J = (1 − l)·I + l·[[0, A], [−Aᵀ, 0]].

        Level l = 0 is ½|x|² − ½|y|², where one step of gradient play is the answer; l = 1 is xᵀAy, where gradient play
        only spins. In between the eigenvalues of J are (1 − l) ± ilσ, so they turn from the real to the imaginary axis.

        Args:
            level: l in [0, 1].
            singular_values: σ of A, all positive; U and V are random orthogonal matrices.
            seed: decides U and V.
            dtype: floating-point type of the game.

        Returns:
            The game of curvature 1 − l and coupling l·A.

        Raises:
            ConfigurationError: if the level is not in [0, 1], or a singular value is not a positive number.

        Example:
            >>> game = QuadraticGame.of_adversarialness(0.75, [2.0], seed=0)
            >>> torch.linalg.eigvals(game.jacobian(game.equilibrium())).abs().round(decimals=4).tolist()
            [1.5207, 1.5207]
        """
        if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 <= level <= 1:
            raise ConfigurationError(
                "Cannot build QuadraticGame because its adversarialness runs from 0, where the players do not meet, to "
                f"1, the bilinear game; pass a number in [0, 1] (got {level!r})."
            )
        coupling = BilinearGame.from_singular_values(singular_values, seed=seed, dtype=dtype).coupling
        return cls(level * coupling, curvature=1 - level, dtype=dtype)

    def losses(self, point: Point) -> dict[str, Tensor]:
        """See `AbstractGame.losses`: the value of the game and its negative."""
        x, y = self._vectors(point)
        value = self.curvature / 2 * (x @ x - y @ y) + x @ self.coupling @ y
        return {"x": value, "y": -value}

    def field(self, point: Point) -> dict[str, Vector]:
        """See `AbstractGame.field`: (hx + Ay, hy − Aᵀx)."""
        x, y = self._vectors(point)
        h, a = self.curvature, self.coupling
        return {"x": (h * x + a @ y,), "y": (h * y - a.T @ x,)}

    def jacobian(self, point: Point) -> Tensor:
        """See `AbstractGame.jacobian`: [[hI, A], [−Aᵀ, hI]] everywhere."""
        self._vectors(point)
        n, m = self.dimensions
        result = self.curvature * torch.eye(n + m, dtype=self.dtype)
        result[:n, n:] = self.coupling
        result[n:, :n] = -self.coupling.T
        return result

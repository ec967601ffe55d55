"""The bilinear game, on which plain gradient play spins outwards and LEAD converges.

    Lₓ = xᵀAy,  Lᵧ = −xᵀAy
    v = (Ay, −Aᵀx),   J = [[0, A], [−Aᵀ, 0]],   eigenvalues ±iσ for every singular value σ of A

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector
from lightning_lead.games._matrices import as_coupling, require_unique_equilibrium
from lightning_lead.games.base import AbstractGame

__all__ = ["BilinearGame"]


@final
class BilinearGame(AbstractGame):
    """Zero-sum game xᵀAy: x minimises, y maximises.

    Args:
        coupling: the matrix A, square and of full rank, shape (n, n).
        dtype: floating-point type of A and of the points made by this game.

    Raises:
        ConfigurationError: if A is not a finite, square matrix of full rank.

    Example:
        Gradient play leaves the equilibrium of a bilinear game, by the factor √(1 + η²σ²) a step:

        >>> game = BilinearGame([[1.0]])
        >>> point = game.point([1.0], [0.0])
        >>> for _ in range(10):
        ...     field = game.field(point)
        ...     point = {player: (point[player][0] - 0.5 * field[player][0],) for player in game.players}
        >>> f"{game.distance(point):.3f} = {1.25**5:.3f}"
        '3.052 = 3.052'
    """

    def __init__(self, coupling: Tensor | Sequence[Sequence[float]], *, dtype: torch.dtype = torch.float64) -> None:
        check_arguments(BilinearGame, locals())
        self.coupling = as_coupling(coupling, dtype=dtype, owner="BilinearGame")
        n, m = self.coupling.shape
        super().__init__(dimensions=(n, m), dtype=dtype)
        require_unique_equilibrium(self.coupling, owner="BilinearGame")

    @classmethod
    def from_singular_values(
        cls,
        singular_values: Sequence[float],
        *,
        seed: int,
        dtype: torch.dtype = torch.float64,
    ) -> BilinearGame:
        """A game whose spectrum is known: A = U diag(σ) Vᵀ with random orthogonal U and V.

        Args:
            singular_values: σ, all positive.
            seed: decides U and V.
            dtype: floating-point type of the game.

        Returns:
            The game; its Jacobian has the eigenvalues ±iσ.

        Raises:
            ConfigurationError: if a singular value is not a positive number.

        Example:
            >>> game = BilinearGame.from_singular_values([0.5, 1.0], seed=0)
            >>> eigenvalues = torch.linalg.eigvals(game.jacobian(game.equilibrium()))
            >>> [round(value, 6) for value in sorted(eigenvalues.imag.tolist())]
            [-1.0, -0.5, 0.5, 1.0]
        """
        values = torch.as_tensor(singular_values, dtype=dtype)
        if values.ndim != 1 or values.numel() == 0 or not bool((values.isfinite() & (values > 0)).all()):
            raise ConfigurationError(
                "Cannot build BilinearGame because a zero singular value leaves a line of equilibria; pass one or more "
                f"positive finite numbers (got {list(singular_values)})."
            )
        generator = torch.Generator().manual_seed(seed)
        size = values.numel()
        left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=dtype)).Q for _ in range(2))
        return cls(left @ values.diag() @ right.T, dtype=dtype)

    def losses(self, point: Point) -> dict[str, Tensor]:
        """See `AbstractGame.losses`: xᵀAy and its negative."""
        x, y = self._vectors(point)
        value = x @ self.coupling @ y
        return {"x": value, "y": -value}

    def field(self, point: Point) -> dict[str, Vector]:
        """See `AbstractGame.field`: (Ay, −Aᵀx)."""
        x, y = self._vectors(point)
        return {"x": (self.coupling @ y,), "y": (-self.coupling.T @ x,)}

    def jacobian(self, point: Point) -> Tensor:
        """See `AbstractGame.jacobian`: [[0, A], [−Aᵀ, 0]] everywhere."""
        self._vectors(point)
        n = self.dimensions[0]
        result = torch.zeros(2 * n, 2 * n, dtype=self.dtype)
        result[:n, n:] = self.coupling
        result[n:, :n] = -self.coupling.T
        return result

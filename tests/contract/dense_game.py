"""A smooth game, neither quadratic nor zero-sum, and its derivatives as dense matrices: what twins are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_lead.games import AbstractGame

A = torch.tensor([[1.0, 0.3, -0.2], [-0.4, 0.8, 0.5]], dtype=torch.float64)
B = torch.tensor([[0.2, -0.1, 0.1], [0.1, 0.3, -0.2]], dtype=torch.float64)


class TwistedGame(AbstractGame):
    """Curved, with an equilibrium at the origin and no other one nearby; general-sum unless asked otherwise."""

    def __init__(self, *, zero_sum: bool = False, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(dimensions=(2, 3), dtype=dtype)
        self.zero_sum = zero_sum

    def losses(self, point: Any) -> dict[str, Tensor]:
        x, y = point["x"][0], point["y"][0]
        met = x @ A.to(x.dtype) @ y
        of_x = 0.3 * (x @ x) + 0.1 * x.sin().square().sum() + met + 0.1 * (x @ x) * y[0]
        if self.zero_sum:
            of_x = of_x - 0.2 * (y @ y)
            return {"x": of_x, "y": -of_x}
        return {"x": of_x, "y": 0.2 * (y @ y) + 0.05 * y.pow(4).sum() - met - x @ B.to(x.dtype) @ y}

    def field(self, point: Any) -> dict[str, tuple[Tensor, ...]]:
        leaves = {name: (point[name][0].detach().requires_grad_(),) for name in self.players}
        losses = self.losses(leaves)
        return {name: torch.autograd.grad(losses[name], leaves[name], retain_graph=True) for name in self.players}

    def jacobian(self, point: Any) -> Tensor:
        dense = Dense(self, point["x"][0], point["y"][0])
        rows = [torch.cat([dense.block(i, i, j) for j in self.players], dim=1) for i in self.players]
        return torch.cat(rows)


class Dense:
    """Gradients and Hessian blocks of both losses at one point, each computed when it is first asked for."""

    def __init__(self, game: AbstractGame, x: Tensor, y: Tensor) -> None:
        n, z = len(x), torch.cat([x, y]).detach()

        def loss(name: str) -> Callable[[Tensor], Tensor]:
            return lambda v: game.losses({"x": (v[:n],), "y": (v[n:],)})[name]

        self._gradient = functools.cache(lambda name: torch.autograd.functional.jacobian(loss(name), z))
        self._hessian = functools.cache(lambda name: torch.autograd.functional.hessian(loss(name), z))
        self._slices = {"x": slice(0, n), "y": slice(n, None)}

    def gradient(self, player: str) -> Tensor:
        """∇_player L_player."""
        return self._gradient(player)[self._slices[player]]

    def block(self, loss: str, row: str, column: str) -> Tensor:
        """∂²L_loss / ∂θ_row ∂θ_column."""
        return self._hessian(loss)[self._slices[row], self._slices[column]]

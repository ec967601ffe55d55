"""The linear solve of CGD and ACGD: both players' answers to each other's moves."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import torch

from lightning_lead._checks import require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Vector
from lightning_lead.calculus._krylov import Solution, conjugate_gradient, gmres
from lightning_lead.calculus._players import weighted_sum
from lightning_lead.calculus._terms import HessianTerm
from lightning_lead.calculus.oracle import GameOracle

__all__ = ["LocalSolver", "as_directions"]


class LocalSolver(NamedTuple):
    """The settings of the linear solve, and the solve."""

    name: Literal["cg", "gmres"]
    tolerance: float
    max_iterations: int

    @classmethod
    def checked(cls, name: Any, tolerance: Any, max_iterations: Any) -> LocalSolver:
        """The settings, if they are in their ranges."""
        tolerance = require_number("tolerance", tolerance, low=0, high=1, closed=False, why="it bounds the residual")
        if not isinstance(max_iterations, int) or isinstance(max_iterations, bool) or max_iterations < 1:
            raise ConfigurationError(f"Cannot use max_iterations={max_iterations!r}; pass an integer ≥ 1")
        return cls(name, tolerance, max_iterations)

    def moves(
        self, oracle: GameOracle, field: dict[str, Vector], scales: dict[str, Vector], guess: Vector | None
    ) -> tuple[dict[str, Vector], Vector, Solution]:
        """Both players' moves in the local game.

        Where the solver does not converge, its iterate is kept if it leaves less of a residual than no move would;
        otherwise both players take their plain steps. Either way it is counted, and the first time is a warning.
        """
        x, y = oracle.names
        root = tuple(s.sqrt() for s in scales[x])

        def answer(of: str, moved: Vector) -> Vector:
            """F Δy or G Δx."""
            other = x if of == y else y
            return oracle.hessian_product(of, [HessianTerm(of, other, moved)])

        def operator(z: Vector) -> Vector:
            product = answer(x, _times(scales[y], answer(y, _times(root, z))))
            return weighted_sum([(1.0, z), (-1.0, _times(root, product))])

        expected = answer(x, _times(scales[y], field[y]))
        b = _times(root, weighted_sum([(1.0, field[x]), (-1.0, expected)]))
        solve = gmres if self.name == "gmres" else conjugate_gradient
        found = solve(operator, b, guess=guess, tolerance=self.tolerance, max_iterations=self.max_iterations)
        oracle.notes |= {"solver/iterations": float(found.iterations), "solver/residual": found.residual}
        if found.converged or found.residual < 1:
            move = weighted_sum([(-1.0, _times(root, found.x))])
            theirs = weighted_sum([(1.0, field[y]), (1.0, answer(y, move))])
            return {x: move, y: weighted_sum([(-1.0, _times(scales[y], theirs))])}, found.x, found
        plain = {name: weighted_sum([(-1.0, _times(scales[name], field[name]))]) for name in (x, y)}
        return plain, tuple(torch.zeros_like(t) for t in b), found

    def counted(self, oracle: GameOracle, found: Solution, failures: int, rule: str) -> int:
        """Return the number of solves that have not converged; warn the first time."""
        failures += not found.converged
        oracle.notes["solver/not_converged"] = float(failures)
        if not found.converged and failures == 1:
            warnings.warn(
                f"{rule}: {self.name} left a relative residual of {found.residual:.1e} after {found.iterations} "
                f"iterations (tolerance {self.tolerance:.1e}). The iterate is used if its residual is below 1, else "
                "plain steps; solver/not_converged counts. Lower the learning rate, or raise max_iterations.",
                stacklevel=2,
            )
        return failures


def as_directions(moves: dict[str, Vector], rates: dict[str, tuple[float, ...]]) -> dict[str, Vector]:
    """Return what plain steps of these rates must descend to make the moves; zeros where a rate is zero."""
    return {
        player: tuple(m / -rate if rate else torch.zeros_like(m) for m, rate in zip(move, rates[player], strict=True))
        for player, move in moves.items()
    }


def _times(a: Vector, b: Vector) -> Vector:
    return tuple(torch._foreach_mul(list(a), list(b)))

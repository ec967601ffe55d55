"""Competitive gradient descent: both players' answer to each other's move, in a local bilinear game.

    Δx = argmin  ⟨∇ₓLₓ, Δx⟩ + Δxᵀ F Δy + ½ Δxᵀ η⁻¹ Δx,      F = ∂²Lₓ/∂x∂y
    Δy = argmin  ⟨∇ᵧLᵧ, Δy⟩ + Δyᵀ G Δx + ½ Δyᵀ η⁻¹ Δy,      G = ∂²Lᵧ/∂y∂x
    so  (I − √ηₓ F ηᵧ G √ηₓ) z = √ηₓ (∇ₓLₓ − F ηᵧ ∇ᵧLᵧ),    Δx = −√ηₓ z,    Δy = −ηᵧ (∇ᵧLᵧ + G Δx)

In a zero-sum game G = −Fᵀ and the matrix is symmetric positive definite. It is always the first player's move that is
solved for, and the second one answers it; solved exactly, it does not matter whose.

Reference: Schäfer and Anandkumar, "Competitive Gradient Descent", NeurIPS 2019, equations 2 to 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, final

import torch

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus.krylov import Solution, conjugate_gradient, gmres
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.players import weighted_sum
from lightning_lead.calculus.terms import HessianTerm
from lightning_lead.rules.base import AbstractGameRule, RuleNeeds, RuleState, require_number

__all__ = ["CGD", "LocalSolver", "as_directions"]


class LocalSolver(NamedTuple):
    """How the players' answers to each other are found.

    Example:
        >>> LocalSolver.checked("gmres", 1e-6, 50).max_iterations
        50
    """

    name: Literal["cg", "gmres"]
    tolerance: float
    max_iterations: int

    @classmethod
    def checked(cls, name: Any, tolerance: Any, max_iterations: Any) -> LocalSolver:
        """The settings, if they are in their ranges.

        Args:
            name: "cg" or "gmres".
            tolerance: of the relative residual, in (0, 1).
            max_iterations: ≥ 1.

        Raises:
            ConfigurationError: a setting out of its range.
        """
        if name not in ("cg", "gmres"):
            raise ConfigurationError(f"Cannot use solver={name!r}; choose 'gmres', or 'cg' for zero-sum games")
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

        Args:
            oracle: for products with F and G.
            field: both gradients.
            scales: η of each parameter, positive tensors.
            guess: z of the last step, or None.

        Returns:
            Δ of each player, z for the next step's guess, and what the solver says.
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
        """How often the solver has not converged; warns the first time.

        Args:
            oracle: takes the note.
            found: the last solution.
            failures: so far.
            rule: its name.
        """
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


@final
class CGD(AbstractGameRule):
    """Competitive gradient descent. Cost of a game step: two gradients and 4 + 2 × iterations Hessian products.

    One product is in the right-hand side, two judge the guess, two make an iteration, and one is the second player's
    answer. The first step has no guess and needs two less; plain steps after a failed solve ask for no answer, one
    less. Every one is averaged over ranks, one reduction each.

    It takes plain steps; η is the learning rate. State: the last solution, from where the next solve begins, and how
    often a solve has failed.

    Args:
        solver: "gmres" for any two losses, "cg" for zero-sum games.
        tolerance: relative residual at which the solve ends, in (0, 1).
        max_iterations: of a solve, ≥ 1.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(CGD(), BilinearGame([[1.0]]), lr=0.5, steps=100)
        >>> path.distances[-1] < 1e-4 * path.distances[0]
        True
    """

    affine = True
    plays: tuple[Play, ...] = ("simultaneous",)

    def __init__(
        self, solver: Literal["cg", "gmres"] = "gmres", *, tolerance: float = 1e-6, max_iterations: int = 50
    ) -> None:
        self.solver = LocalSolver.checked(solver, tolerance, max_iterations)
        self.needs = RuleNeeds(
            second_order=True, repeats_batch=True, uses_opponent=True, requires_sgd=True, zero_sum=solver == "cg"
        )

    @classmethod
    def variants(cls) -> list[AbstractGameRule]:
        """By both solvers, as exactly as float64 allows."""
        return [cls(tolerance=1e-13), cls("cg", tolerance=1e-13)]

    def init(self, point: Point) -> RuleState:
        """No solution yet."""
        return {"guess": None, "failures": 0}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """−Δ/η of both players' moves."""
        field = {player: oracle.gradient(player) for player in players}
        rates = {player: oracle.rates(player) for player in players}
        scales = {
            player: tuple(torch.full_like(g, rate) for g, rate in zip(field[player], rates[player], strict=True))
            for player in players
        }
        moves, guess, found = self.solver.moves(oracle, field, scales, state["guess"])
        failures = self.solver.counted(oracle, found, state["failures"], self.name)
        return as_directions(moves, rates), {"guess": guess, "failures": failures}


def as_directions(moves: dict[str, Vector], rates: dict[str, tuple[float, ...]]) -> dict[str, Vector]:
    """What plain steps of these rates must descend to make the moves; a rate of zero stays where it is.

    Args:
        moves: Δ of each player.
        rates: η of each of its parameters.

    Example:
        >>> as_directions({"x": (torch.ones(1),)}, {"x": (0.5,)})
        {'x': (tensor([-2.]),)}
    """
    return {
        player: tuple(m / -rate if rate else torch.zeros_like(m) for m, rate in zip(move, rates[player], strict=True))
        for player, move in moves.items()
    }


def _times(a: Vector, b: Vector) -> Vector:
    return tuple(torch._foreach_mul(list(a), list(b)))

"""Solve A x = b by products with A alone: conjugate gradients for symmetric positive definite A, GMRES for any other.

Both begin at a guess, by default 0, and stop when ‖b − A x‖ ≤ tolerance · ‖b‖. All inner products are of vectors that
are the same on every rank, so every rank takes the same number of iterations.

References: Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952; Saad and Schultz,
"GMRES", 1986, Algorithm 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lead._types import Vector
from lightning_lead.calculus._players import inner, norm, weighted_sum

__all__ = ["Solution", "conjugate_gradient", "gmres"]

Operator = Callable[[Vector], Vector]


class Solution(NamedTuple):
    """A solver's result."""

    x: Vector
    iterations: int  # products with A, besides the one for the residual of the guess
    residual: float  # ‖b − A x‖ / ‖b‖
    converged: bool


def conjugate_gradient(
    operator: Operator, b: Vector, *, guess: Vector | None = None, tolerance: float = 1e-6, max_iterations: int = 100
) -> Solution:
    """x with A x = b, for a symmetric positive definite A."""
    size = float(norm(b))
    if size == 0:
        return Solution(_zeros(b), 0, 0.0, True)
    x, residual = _start(operator, b, guess)
    direction, square = residual, float(inner(residual, residual))
    iterations = 0
    while square**0.5 > tolerance * size and iterations < max_iterations:
        product = operator(direction)
        iterations += 1
        curvature = float(inner(direction, product))
        if not curvature > 0:  # not positive definite, or not finite
            break
        length = square / curvature
        x = weighted_sum([(1.0, x), (length, direction)])
        residual = weighted_sum([(1.0, residual), (-length, product)])
        before, square = square, float(inner(residual, residual))
        direction = weighted_sum([(1.0, residual), (square / before, direction)])
    return Solution(x, iterations, square**0.5 / size, square**0.5 <= tolerance * size)


def gmres(
    operator: Operator, b: Vector, *, guess: Vector | None = None, tolerance: float = 1e-6, max_iterations: int = 100
) -> Solution:
    """x with A x = b, for any regular A; the residual never grows. Memory: one vector per iteration."""
    size = float(norm(b))
    if size == 0:
        return Solution(_zeros(b), 0, 0.0, True)
    start, residual = _start(operator, b, guess)
    beta = float(norm(residual))
    if beta <= tolerance * size:
        return Solution(start, 0, beta / size, True)
    if not beta < float("inf"):  # or nan
        return Solution(start, 0, float("nan"), False)
    basis = [weighted_sum([(1 / beta, residual)])]
    hessenberg = torch.zeros(max_iterations + 1, max_iterations, dtype=torch.float64)
    rest, solution = beta, torch.zeros(0, dtype=torch.float64)
    for k in range(max_iterations):
        # Arnoldi: A v_k, made orthogonal to the basis, is the next basis vector; the overlaps are column k of H
        w, column = operator(basis[k]), [torch.zeros_like(inner(residual, residual))] * len(basis)
        for _ in range(2):  # Gram and Schmidt's process twice is enough to stay orthogonal
            for i, v in enumerate(basis):
                overlap = inner(w, v)
                column[i] = column[i] + overlap
                w = tuple(t - overlap * u for t, u in zip(w, v, strict=True))
        # the column is read at once: the host waits for the device once per iteration
        overlaps = torch.stack([*column, norm(w).to(column[0].dtype)]).tolist()
        hessenberg[: k + 2, k], length = torch.tensor(overlaps, dtype=torch.float64), overlaps[-1]
        if not bool(hessenberg[: k + 2, k].isfinite().all()):
            return Solution(_combined(start, basis[: len(solution)], solution), k + 1, float("nan"), False)
        # min ‖b − A x‖ over the basis is min ‖β e₁ − H y‖, a small problem on the host
        target = torch.zeros(k + 2, dtype=torch.float64)
        target[0] = beta
        block = hessenberg[: k + 2, : k + 1]
        solution = torch.linalg.lstsq(block, target[:, None], driver="gelsd").solution[:, 0]
        rest = float((target - block @ solution).norm())
        if rest <= tolerance * size or length <= 1e-14 * beta:  # the latter: the basis holds the solution
            break
        basis.append(weighted_sum([(1 / length, w)]))
    x = _combined(start, basis[: len(solution)], solution)
    return Solution(x, len(solution), rest / size, rest <= tolerance * size)


def _start(operator: Operator, b: Vector, guess: Vector | None) -> tuple[Vector, Vector]:
    """The guess, by default 0, and its residual."""
    if guess is None:
        return _zeros(b), b
    return guess, weighted_sum([(1.0, b), (-1.0, operator(guess))])


def _zeros(vector: Vector) -> Vector:
    return tuple(torch.zeros_like(t) for t in vector)


def _combined(start: Vector, basis: list[Vector], weights: Tensor) -> Vector:
    return weighted_sum([(1.0, start), *((float(w), v) for w, v in zip(weights, basis, strict=True))])

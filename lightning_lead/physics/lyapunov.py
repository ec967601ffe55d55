"""Stability of LEAD's continuous-time system: its matrix, and a Lyapunov function that falls where it is stable.

    s̈ = −Js − 2qKṡ − μṡ,   J = hI + K,   K = [[0, A], [−Aᵀ, 0]]                          (quadratic game)
    E = ½|ṡ + μs + 2qKs|² + ½|ṡ|² + h|s|²
    dE/dt = −μ|ṡ|² − 2ṡᵀKs − 2q|Ks|² − μh|s|²

Derivation. K is antisymmetric, so sᵀKs = 0. With w = ṡ + μs + 2qKs, whose derivative is −Js:

    (½|w|²)˙ = −ṡᵀJs − μh|s|² − 2q|Ks|²,   (½|ṡ|²)˙ = −ṡᵀJs − μ|ṡ|²,   (h|s|²)˙ = 2hṡᵀs

Their sum is dE/dt. On a singular value σ of K it is at most −(μ|ṡ|² − 2σ|ṡ||s| + (2qσ² + μh)|s|²), with equality for
some directions of s and ṡ. So, given μ > 0, E falls everywhere off the equilibrium if and only if

    μ²h + (2qμ − 1)σ² > 0   for every σ.

That is also the Routh–Hurwitz condition of λ² + (μ + 2qiσ)λ + h + iσ = 0: E falls exactly where the system is stable.
On a bilinear game (h = 0) it reads 2qμ > 1, in LEAD's units a(1 − β) > 1, whatever the coupling. Without the magnetic
force (q = 0) a particle leaves a bilinear game under any friction, and only curvature, μ²h > σ², can hold it.

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023, which proves
convergence in continuous time with a Lyapunov function. The one here and its condition are worked out above.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._scientific import scipy_module
from lightning_lead.games.base import AbstractGame
from lightning_lead.physics._vectors import constant_jacobian

__all__ = ["LeadLyapunov", "lead_system", "lyapunov_matrix"]


def lead_system(game: AbstractGame, *, charge: float, friction: float) -> Tensor:  # (2d, 2d)
    """Matrix M of LEAD's continuous-time system near the equilibrium, d/dt (s, ṡ) = M (s, ṡ).

        M = [[0, I], [−J, −μI − q(J − Jᵀ)]]

    Exact on bilinear and quadratic games, the linearisation on others.

    Args:
        game: J is its Jacobian at the equilibrium, shape (d, d).
        charge: q, finite.
        friction: μ, finite.

    Returns:
        M, shape (2d, 2d), float64, position first. The system is stable if its eigenvalues have negative real parts.

    Raises:
        ConfigurationError: a number that is not finite.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> for charge in (0.0, 1.0):
        ...     system = lead_system(BilinearGame([[1.0]]), charge=charge, friction=1.0)
        ...     print(f"{torch.linalg.eigvals(system).real.max().item():.3f}")
        0.300
        -0.500
    """
    if not (math.isfinite(charge) and math.isfinite(friction)):
        raise ConfigurationError(
            f"Cannot build the system because charge and friction must be finite (got {charge!r} and {friction!r})."
        )
    jacobian = game.jacobian(game.equilibrium()).to(torch.float64)
    eye = torch.eye(len(jacobian), dtype=torch.float64)
    upper = torch.cat([torch.zeros_like(eye), eye], dim=1)
    lower = torch.cat([-jacobian, -friction * eye - charge * (jacobian - jacobian.T)], dim=1)
    return torch.cat([upper, lower])


def lyapunov_matrix(system: Tensor) -> Tensor:  # (k, k) -> (k, k)
    """P of the Lyapunov function V(z) = zᵀPz of a stable linear system ż = Mz, with dV/dt = −|z|².

    Solves MᵀP + PM = −I (scipy's `solve_continuous_lyapunov`, Bartels and Stewart 1972). It exists for every stable
    system, so also for the linearisation of games for which `LeadLyapunov` has no closed form.

    Args:
        system: M, shape (k, k), every eigenvalue with a negative real part.

    Returns:
        P, symmetric and positive definite, shape (k, k), float64.

    Raises:
        ConfigurationError: M is not square or not stable, or SciPy is missing.

    Example:
        >>> lyapunov_matrix(torch.tensor([[-2.0]])).item()
        0.25
    """
    if system.ndim != 2 or system.shape[0] != system.shape[1]:
        raise ConfigurationError(
            "Cannot solve for a Lyapunov function because the system is not a square matrix; pass M of ż = Mz "
            f"(got shape {tuple(system.shape)})."
        )
    matrix = system.to(torch.float64)
    abscissa = torch.linalg.eigvals(matrix).real.max().item()
    if not abscissa < 0:
        raise ConfigurationError(
            "Cannot solve for a Lyapunov function because the system is not stable, so no such function exists; "
            f"every eigenvalue needs a negative real part (got a largest one of {abscissa:.3g})."
        )
    solve = scipy_module("linalg").solve_continuous_lyapunov
    solution = torch.from_numpy(solve(matrix.T.numpy(), -torch.eye(len(matrix), dtype=torch.float64).numpy()))
    return (solution + solution.T) / 2  # symmetric but for rounding


@final
class LeadLyapunov:
    """Lyapunov function of LEAD's continuous-time system on a bilinear or quadratic game, in closed form.

        E(s, ṡ) = ½|ṡ + μs + 2qKs|² + ½|ṡ|² + h|s|²

    It is positive away from the equilibrium at rest, and decreasing exactly where the system is stable; the head of the
    module derives both. LEAD's own steps follow it for small time steps only.

    Args:
        game: one with a constant Jacobian hI + K, h ≥ 0 and K antisymmetric.
        charge: q, finite.
        friction: μ, finite and > 0.

    Attributes:
        matrix: Q with E = zᵀQz, z = (s, ṡ), shape (2d, 2d).
        rate: ρ > 0, the largest number with E(t) ≤ E(0) exp(−ρt) by this function, for every start.

    Raises:
        ConfigurationError: the game has another Jacobian, a number is out of its range, or the system is not stable.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> energy = LeadLyapunov(BilinearGame([[1.0]]), charge=1.0, friction=1.0)
        >>> start, at_rest = torch.tensor([1.0, 0.0]), torch.zeros(2)
        >>> energy(start, at_rest).item(), energy.slope(start, at_rest).item(), f"{energy.rate:.3f}"
        (2.5, -2.0, '0.553')
    """

    def __init__(self, game: AbstractGame, *, charge: float, friction: float) -> None:
        check_arguments(LeadLyapunov, locals())
        if not (math.isfinite(friction) and friction > 0):
            raise ConfigurationError(
                "Cannot build LeadLyapunov because nothing takes energy out without friction; pass a finite μ > 0 "
                f"(got {friction!r})."
            )
        self._system = lead_system(game, charge=charge, friction=friction)
        jacobian = constant_jacobian(game)
        size = len(jacobian)
        eye = torch.eye(size, dtype=torch.float64)
        rotation = (jacobian - jacobian.T) / 2  # K
        curvature = jacobian.diagonal().mean().item()  # h
        if curvature < 0 or not torch.allclose(jacobian - rotation, curvature * eye, rtol=0, atol=1e-12):
            raise ConfigurationError(
                f"Cannot build LeadLyapunov for {type(game).__name__} because its closed form needs the same curvature "
                "h ≥ 0 in every direction; use lyapunov_matrix(lead_system(...)) "
                f"(got curvatures {torch.linalg.eigvalsh(jacobian - rotation).tolist()})."
            )
        largest, smallest = (f(torch.linalg.svdvals(rotation)).item() for f in (torch.max, torch.min))
        # Linear in σ², so its least value is at one of the ends.
        margin = min(friction**2 * curvature + (2 * charge * friction - 1) * s**2 for s in (smallest, largest))
        if not margin > 0:
            raise ConfigurationError(
                "Cannot build LeadLyapunov because the system is not stable; choose charge and friction so that "
                f"μ²h + (2qμ − 1)σ² > 0 for every singular value σ (got {margin:.3g})."
            )
        momentum = torch.cat([friction * eye + 2 * charge * rotation, eye], dim=1)  # ṡ + μs + 2qKs, from (s, ṡ)
        self.matrix = momentum.T @ momentum / 2
        self.matrix[:size, :size] += curvature * eye
        self.matrix[size:, size:] += eye / 2
        # E falls at least at the rate ρ where −(MᵀQ + QM) − ρQ is positive semidefinite: a generalised eigenvalue.
        inverse = torch.linalg.inv(torch.linalg.cholesky(self.matrix))
        self.rate: float = torch.linalg.eigvalsh(inverse @ self._loss() @ inverse.T).min().item()

    def __call__(
        self,
        positions: Tensor,  # (..., d)
        velocities: Tensor,  # (..., d)
    ) -> Tensor:  # (...)
        """E at one moment or along a path."""
        return self._form(self.matrix, positions, velocities)

    def slope(
        self,
        positions: Tensor,  # (..., d)
        velocities: Tensor,  # (..., d)
    ) -> Tensor:  # (...)
        """dE/dt of the continuous-time system at one moment or along a path: negative off the equilibrium."""
        return -self._form(self._loss(), positions, velocities)

    def _loss(self) -> Tensor:
        """The matrix of −dE/dt, from the system itself rather than from the formula in the head of the module."""
        return -(self._system.T @ self.matrix + self.matrix @ self._system)

    @staticmethod
    def _form(matrix: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        state = torch.cat([positions, velocities], dim=-1).to(torch.float64)
        return ((state @ matrix) * state).sum(-1)

"""The spectrum of a game's Jacobian, for networks too: a few eigenvalues by Arnoldi's method, from products alone.

    v(θ) = (∇₁L₁, ∇₂L₂),      J = ∂v/∂θ,      (Jw)_i = Σ_j (∂²L_i / ∂θ_i ∂θ_j) w_j

Eigenvalues with large imaginary parts are what makes a game spin. Each product costs two Hessian products per player.
All of it repeats the oracle's batch, and leaves buffers alone.

References: Mescheder, Nowozin and Geiger, "The Numerics of GANs", NeurIPS 2017; Lehoucq, Sorensen and Yang, "ARPACK
Users' Guide", SIAM 1998, by way of `scipy.sparse.linalg.eigs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._scientific import scipy_module
from lightning_lead.calculus._terms import HessianTerm
from lightning_lead.calculus.oracle import GameOracle

__all__ = ["dense_jacobian", "game_spectrum", "jacobian_product"]


def jacobian_product(oracle: GameOracle) -> Callable[[Tensor], Tensor]:
    """w -> Jw on vectors of all parameters in a row, in the order of play.

    Args:
        oracle: on the batch and at the point that are meant.

    Example:
        >>> x = torch.ones(1)
        >>> def losses(point, wanted, *, replay):
        ...     f = (point["x"][0] * point["y"][0]).sum()
        ...     return {"x": f, "y": -f}
        >>> jacobian_product(GameOracle({"x": (x,), "y": (x,)}, [losses]))(torch.tensor([1.0, 2.0]))
        tensor([ 2., -1.])
    """
    shapes = {name: [p.shape for p in vector] for name, vector in oracle.point.items()}

    def product(vector: Tensor) -> Tensor:
        parts = iter(vector.split([shape.numel() for own in shapes.values() for shape in own]))
        pieces = {name: tuple(next(parts).reshape(shape) for shape in own) for name, own in shapes.items()}
        rows = [oracle.hessian_product(i, [HessianTerm(i, j, pieces[j]) for j in shapes]) for i in shapes]
        return torch.cat([part.reshape(-1) for row in rows for part in row])

    return product


def dense_jacobian(oracle: GameOracle) -> Tensor:
    """J itself, column by column, for small games: two Hessian products per player and parameter.

    Args:
        oracle: on the batch and at the point that are meant.

    Returns:
        Shape (n, n), n the number of all parameters, in the order of play.

    Example:
        >>> x = torch.ones(1)
        >>> def losses(point, wanted, *, replay):
        ...     f = (point["x"][0] * point["y"][0]).sum()
        ...     return {"x": f, "y": -f}
        >>> dense_jacobian(GameOracle({"x": (x,), "y": (x,)}, [losses])).abs()
        tensor([[0., 1.],
                [1., 0.]])
    """
    size, like = _size_of(oracle)
    product = jacobian_product(oracle)
    return torch.stack([product(unit) for unit in torch.eye(size, dtype=like.dtype, device=like.device)], dim=1)


def game_spectrum(
    oracle: GameOracle,
    *,
    k: int = 6,
    which: Literal["LM", "LI", "LR", "SR"] = "LM",
    tolerance: float = 1e-8,
    max_iterations: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Some eigenvalues of J, without ever forming it.

    Args:
        oracle: on the batch and at the point that are meant.
        k: how many, in [1, n − 2] for n parameters in all.
        which: of largest modulus, largest imaginary part, or largest or smallest real part.
        tolerance: relative, of an eigenvalue; 0 is machine precision.
        max_iterations: restarts of Arnoldi's method; default 10 n.
        seed: of the first vector.

    Returns:
        Complex, shape (k,), the outermost first.

    Raises:
        ConfigurationError: scipy is missing, a setting is out of its range, or the iteration did not converge.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame.from_singular_values([0.5, 1.0, 3.0], seed=0)
        >>> oracle = GameOracle(game.random_point(seed=0), [lambda point, wanted, *, replay: game.losses(point)])
        >>> game_spectrum(oracle, k=2).imag.abs().round(decimals=6)
        tensor([3., 3.], dtype=torch.float64)
    """
    if which not in ("LM", "LI", "LR", "SR"):
        raise ConfigurationError(f"Cannot look for eigenvalues which={which!r}; choose 'LM', 'LI', 'LR' or 'SR'")
    size, like = _size_of(oracle)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= size - 2:
        raise ConfigurationError(
            f"Cannot find k={k!r} eigenvalues because Arnoldi's method finds 1 to n - 2 of n; pass such a k, or use "
            f"dense_jacobian() (got n = {size})"
        )
    linalg = scipy_module("sparse.linalg")
    product = jacobian_product(oracle)

    def matvec(vector: object) -> object:  # numpy arrays
        w = torch.as_tensor(vector).reshape(-1).to(device=like.device, dtype=like.dtype)
        return product(w).to(device="cpu", dtype=torch.float64).numpy()

    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    operator = linalg.LinearOperator((size, size), matvec=matvec, dtype="float64")
    try:
        found = linalg.eigs(
            operator, k=k, which=which, v0=start, tol=tolerance, maxiter=max_iterations, return_eigenvectors=False
        )
    except linalg.ArpackNoConvergence as error:
        raise ConfigurationError(
            f"Cannot find {k} eigenvalues because Arnoldi's method did not converge; raise max_iterations or tolerance "
            f"(got {len(error.eigenvalues)} of them)"
        ) from error
    values = torch.as_tensor(found)
    key = {"LM": values.abs(), "LI": values.imag.abs(), "LR": values.real, "SR": -values.real}[which]
    return values[key.argsort(descending=True)]


def _size_of(oracle: GameOracle) -> tuple[int, Tensor]:
    parameters = [p for vector in oracle.point.values() for p in vector]
    return sum(p.numel() for p in parameters), parameters[0]

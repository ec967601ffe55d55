"""Energy along a path: how much there is in the motion, and which force put it there.

T = ½|ṡ|²,   W_F(t) = ∫₀ᵗ F(s, ṡ)·ṡ dt,   T(t) − T(0) = Σ W_F(t)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._scientific import scipy_module
from lightning_lead.physics.forces import AbstractForce
from lightning_lead.physics.trajectories import Trajectory

__all__ = ["kinetic_energy", "work"]


def kinetic_energy(
    velocities: Tensor,  # (..., d)
) -> Tensor:  # (...)
    """Kinetic energy of a particle of mass 1, ½|ṡ|².

    Args:
        velocities: one velocity or a path of them, shape (..., d).

    Returns:
        Shape (...).

    Example:
        >>> kinetic_energy(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [12.5, 0.5]
    """
    return (velocities * velocities).sum(-1) / 2


def work(force: AbstractForce, path: Trajectory) -> Tensor:  # (times,)
    """Work that one force has done up to each moment of a path, W(t) = ∫₀ᵗ F·ṡ dt.

    The power F·ṡ is exact at the samples; between them it is a cubic spline, so the error falls with the fourth
    power of their distance.

    Args:
        force: any force, whether or not it shaped the path.
        path: at least 4 samples.

    Returns:
        W at every sample, shape (times,), 0 at the first.

    Raises:
        ConfigurationError: fewer than 4 samples, or SciPy missing.

    Example:
        The magnetic force does no work, whatever it does to the path:

        >>> from lightning_lead.analysis import MagneticForce, VortexForce, integrate
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame([[1.0]])
        >>> vortex, magnetic = VortexForce(game), MagneticForce(game, charge=1.0)
        >>> path = integrate([vortex, magnetic], game.point([1.0], [0.0]), duration=5.0)
        >>> magnetic_work, vortex_work = work(magnetic, path)[-1].item(), work(vortex, path)[-1].item()
        >>> abs(magnetic_work) < 1e-12, f"{vortex_work - kinetic_energy(path.velocities[-1]).item():.6f}".strip("-")
        (True, '0.000000')
    """
    if len(path.times) < 4:
        raise ConfigurationError(
            f"Cannot add up the work because the spline needs 4 samples; integrate with more (got {len(path.times)})."
        )
    moments = zip(path.positions, path.velocities, strict=True)
    power = torch.stack([force(s, v) @ v for s, v in moments])
    spline = scipy_module("interpolate").CubicSpline(path.times.numpy(), power.numpy()).antiderivative()
    return torch.from_numpy(spline(path.times.numpy()))

"""The path of a particle under a sum of forces, in continuous time.

    s̈ = Σ F(s, ṡ),   s(0) and ṡ(0) given

Reference: Hairer, Nørsett and Wanner, "Solving Ordinary Differential Equations I", section II.5 (the solver, DOP853).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._scientific import scipy_module
from lightning_lead.physics._vectors import Position, joint_vector, joint_velocity
from lightning_lead.physics.forces import AbstractForce

__all__ = ["Trajectory", "acceleration", "integrate"]


class Trajectory(NamedTuple):
    """Positions and velocities of a particle, sampled in time; float64.

    Attributes:
        times: t, increasing from 0, shape (times,).
        positions: s(t), shape (times, d).
        velocities: ṡ(t), shape (times, d).

    Example:
        >>> path = integrate([], [0.0], [2.0], duration=3.0, samples=4)  # no force: a straight line
        >>> path.times.tolist(), f"{path.positions[-1].item():.6f}"
        ([0.0, 1.0, 2.0, 3.0], '6.000000')
    """

    times: Tensor
    positions: Tensor
    velocities: Tensor


def integrate(
    forces: Sequence[AbstractForce],
    position: Position,
    velocity: Position | None = None,
    *,
    duration: float,
    samples: int = 501,
    tolerance: float = 1e-11,
) -> Trajectory:
    """Follow a particle of mass 1 by an adaptive Runge–Kutta method of order 8 (scipy's DOP853).

    Args:
        forces: what acts on it; none is free motion.
        position: s(0): a vector of shape (d,), d numbers, or a point of a game.
        velocity: ṡ(0) in the same form; None is at rest, which is how an optimizer starts.
        duration: how long, in the time of the physical system, > 0.
        samples: points in time that are returned, evenly spaced from 0 to `duration`, at least 2. They do not decide
            the accuracy.
        tolerance: relative and absolute error that the solver allows per step, in (0, 0.1].

    Returns:
        The path.

    Raises:
        ConfigurationError: an argument out of its range, SciPy missing, or a path that leaves every bound.

    Example:
        A quarter of a period of a spring turns all of its potential energy into speed:

        >>> from lightning_lead.analysis import ConservativeForce
        >>> spring = ConservativeForce(lambda s: (s**2).sum() / 2)
        >>> path = integrate([spring], [1.0], duration=math.pi / 2)
        >>> f"{path.positions[-1].item():.6f}, {path.velocities[-1].item():.6f}".replace("-0.000000", "0.000000")
        '0.000000, -1.000000'
    """
    start = joint_vector(position)
    speed = joint_velocity(velocity, start)
    if not (math.isfinite(duration) and duration > 0):
        raise ConfigurationError(f"Cannot follow the path because duration must be finite and > 0 (got {duration!r}).")
    if samples < 2:
        raise ConfigurationError(
            f"Cannot sample the path because it has a start and an end; samples ≥ 2 (got {samples!r})."
        )
    if not 0 < tolerance <= 0.1:
        raise ConfigurationError(f"Cannot follow the path because tolerance must lie in (0, 0.1] (got {tolerance!r}).")
    acceleration(forces, start, speed)  # a force that does not fit is found here, not inside the solver
    size = start.numel()

    def slope(_time: float, state: Any) -> Any:
        s, v = torch.from_numpy(state).split(size)
        return torch.cat([v, acceleration(forces, s, v)]).numpy()

    times = torch.linspace(0, duration, samples, dtype=torch.float64)
    solution = scipy_module("integrate").solve_ivp(
        slope,
        (0.0, float(duration)),
        torch.cat([start, speed]).numpy(),
        method="DOP853",
        t_eval=times.numpy(),
        rtol=max(tolerance, 1e-13),  # below about 100 roundings scipy would replace it, with a warning
        atol=tolerance,
    )
    states = torch.from_numpy(solution.y.T.copy())
    if not solution.success or not bool(states.isfinite().all()):
        raise ConfigurationError(
            "Cannot follow the path to its end because it leaves every bound; take a shorter duration or weaker forces "
            f"(got {solution.message!r} after t = {solution.t[-1] if len(solution.t) else 0.0:.4g} of {duration})."
        )
    positions, velocities = states.split(size, dim=1)
    return Trajectory(times, positions.contiguous(), velocities.contiguous())


def acceleration(
    forces: Sequence[AbstractForce],
    position: Tensor,  # (d,)
    velocity: Tensor,  # (d,)
) -> Tensor:  # (d,)
    """The sum of the forces on a particle of mass 1.

    Args:
        forces: what acts on it; none gives zeros.
        position: s, shape (d,).
        velocity: ṡ, shape (d,).

    Returns:
        Σ F(s, ṡ), shape (d,).

    Raises:
        ConfigurationError: a force of another shape than the position.

    Example:
        >>> acceleration([], torch.ones(2), torch.ones(2)).tolist()
        [0.0, 0.0]
    """
    total = torch.zeros_like(position)
    for force in forces:
        part = force(position, velocity)
        if part.shape != position.shape:
            raise ConfigurationError(
                f"Cannot add {type(force).__name__} because a force has one entry per coordinate; return shape "
                f"{tuple(position.shape)} (got {tuple(part.shape)})."
            )
        total = total + part
    return total

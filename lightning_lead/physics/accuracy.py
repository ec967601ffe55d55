"""The order at which LEAD's steps and the continuous path agree as the time step shrinks.

    error(δ) = |s_LEAD(T; δ) − s(T)| ∝ δ^order

The second difference in LEAD's step is that of Störmer and Verlet, accurate to δ². Its velocity is a backward
difference, accurate to δ. So with a force that depends on the velocity (magnetic, friction) the path at a fixed time is
accurate to first order, and to second order without one. The start must not be worse than that:
s⁻ = s − δṡ + ½δ²ΣF(s, ṡ). An optimizer begins with s⁻ = s instead, as if the particle had been at rest half a step
before: an error of first order.

Reference: Hairer, Lubich and Wanner, "Geometric numerical integration illustrated by the Störmer–Verlet method", Acta
Numerica 2003, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lightning_lead._errors import ConfigurationError
from lightning_lead.games.base import AbstractGame
from lightning_lead.physics._vectors import Position, check_time_step
from lightning_lead.physics.discretisation import Start, lead_forces, lead_path
from lightning_lead.physics.trajectories import integrate

__all__ = ["Accuracy", "order_of_accuracy"]


class Accuracy(NamedTuple):
    """Errors of a discretised path at one moment, for several time steps.

    Attributes:
        time_steps: δ, as they were given.
        errors: Euclidean distance from the continuous path at the end, one per time step.
        order: slope of log error against log δ by least squares.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame([[1.0]])
        >>> system = {"charge": 0.5, "friction": 1.0, "duration": 2.0}
        >>> result = order_of_accuracy(game, [1.0, 0.0], **system, time_steps=(0.02, 0.01))
        >>> f"{result.errors[0] / result.errors[1]:.1f} times as far off with twice the step"
        '2.0 times as far off with twice the step'
    """

    time_steps: tuple[float, ...]
    errors: tuple[float, ...]
    order: float


def order_of_accuracy(
    game: AbstractGame,
    position: Position,
    velocity: Position | None = None,
    *,
    charge: float,
    friction: float,
    duration: float,
    time_steps: Sequence[float],
    start: Start = "taylor",
) -> Accuracy:
    """Distance of LEAD from the continuous path at a fixed time, and the order at which it falls with the time step.

    Args:
        game: the game that is played.
        position: s(0): a point of the game, or its vector (x, y).
        velocity: ṡ(0) in the same form; None is at rest.
        charge: q ≥ 0.
        friction: μ in [0, 1/δ] for every δ.
        duration: the moment at which the paths are compared, > 0.
        time_steps: two or more different δ, each of which divides `duration`.
        start: see `discretise`.

    Returns:
        The errors and the measured order: 1 with friction or charge, 2 with neither (from a "taylor" start).

    Raises:
        ConfigurationError: an argument out of its range, a δ that does not divide the duration, or SciPy missing.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> game, steps = BilinearGame([[1.0]]), (0.04, 0.02, 0.01)
        >>> lead = order_of_accuracy(game, [1.0, 0.0], charge=0.5, friction=1.0, duration=2.0, time_steps=steps)
        >>> vortex = order_of_accuracy(game, [1.0, 0.0], charge=0.0, friction=0.0, duration=2.0, time_steps=steps)
        >>> f"{lead.order:.1f}, {vortex.order:.1f}"
        '1.0, 2.0'
    """
    if len(set(time_steps)) < 2:
        raise ConfigurationError(
            "Cannot measure an order because it is a slope; pass at least two different time steps "
            f"(got {list(time_steps)})."
        )
    counts = []
    for time_step in time_steps:
        check_time_step(time_step)
        counts.append(round(duration / time_step))
        if abs(counts[-1] * time_step - duration) > 1e-9 * duration:
            raise ConfigurationError(
                "Cannot compare the paths at one moment because a time step does not divide the duration; pass "
                f"fractions of it (got {time_step!r} in {duration!r})."
            )
    forces = lead_forces(game, charge=charge, friction=friction)
    exact = integrate(forces, position, velocity, duration=duration, samples=2).positions[-1]
    errors = []
    for time_step, steps in zip(time_steps, counts, strict=True):
        path = lead_path(
            game,
            position,
            velocity,
            charge=charge,
            friction=friction,
            time_step=time_step,
            steps=steps,
            start=start,
        )
        errors.append((path.positions[-1] - exact).norm().item())
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (list(time_steps), errors))
    slope = ((x - x.mean()) @ (y - y.mean()) / ((x - x.mean()) ** 2).sum()).item()
    return Accuracy(tuple(time_steps), tuple(errors), slope)

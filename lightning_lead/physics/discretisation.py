"""LEAD as a discretisation of the physical system.

    (s⁺ − 2s + s⁻)/δ² = Σ F(s, (s − s⁻)/δ)                    one step under any forces
    s⁺ = s + β(s − s⁻) − η v(s) − α K(s)(s − s⁻)              the same for vortex, magnetic force and friction
    η = δ²,  β = 1 − μδ,  α = 2qδ,  K = ½(J − Jᵀ)

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead.games.base import AbstractGame
from lightning_lead.physics._vectors import (
    Position,
    check_time_step,
    game_point,
    joint_field,
    joint_vector,
    joint_velocity,
)
from lightning_lead.physics.forces import AbstractForce, Friction, MagneticForce, VortexForce
from lightning_lead.physics.trajectories import Trajectory, acceleration

__all__ = ["LeadUnits", "Start", "discretise", "lead_forces", "lead_path"]

Start = Literal["taylor", "rest"]


class LeadUnits(NamedTuple):
    """The paper's units of LEAD's update that belong to a physical system.

    Attributes:
        eta: step size η = δ².
        beta: momentum β = 1 − μδ.
        alpha: coupling α = 2qδ.

    Example:
        >>> LeadUnits.from_physics(charge=0.25, friction=1.0, time_step=0.5)
        LeadUnits(eta=0.25, beta=0.5, alpha=0.25)
    """

    eta: float
    beta: float
    alpha: float

    @classmethod
    def from_physics(cls, *, charge: float, friction: float, time_step: float) -> LeadUnits:
        """η = δ², β = 1 − μδ, α = 2qδ.

        Args:
            charge: q ≥ 0.
            friction: μ in [0, 1/δ].
            time_step: δ > 0.

        Returns:
            The three numbers of the update.

        Raises:
            ConfigurationError: a number out of its range.
        """
        check_time_step(time_step)
        if not (math.isfinite(charge) and charge >= 0):
            raise ConfigurationError(f"Cannot use this charge because it must be finite and ≥ 0 (got {charge!r}).")
        if not 0 <= friction * time_step <= 1:
            raise ConfigurationError(
                "Cannot use this friction because momentum β = 1 − μδ must lie in [0, 1]; pass μ in [0, 1/δ] "
                f"(got μ = {friction!r} with δ = {time_step!r})."
            )
        return cls(eta=time_step**2, beta=1 - friction * time_step, alpha=2 * charge * time_step)


def discretise(
    forces: Sequence[AbstractForce],
    position: Position,
    velocity: Position | None = None,
    *,
    time_step: float,
    steps: int,
    start: Start = "taylor",
) -> Trajectory:
    """Follow a particle by the step that LEAD and Polyak's heavy ball are made of, s⁺ = 2s − s⁻ + δ²ΣF(s, (s − s⁻)/δ).

    A conservative force and friction give the heavy ball: x⁺ = x + β(x − x⁻) − η∇U with β = 1 − μδ and η = δ².

    Cost: one evaluation of the forces per step.

    Args:
        forces: what acts on the particle.
        position: s(0): a vector of shape (d,), d numbers, or a point of a game.
        velocity: ṡ(0) in the same form; None is at rest.
        time_step: δ > 0.
        steps: how many, at least 1.
        start: "taylor" for the s⁻ that keeps the accuracy, "rest" for s⁻ = s − δṡ, with which an optimizer begins.

    Returns:
        The path at times 0, δ, 2δ, …; its velocities are the backward differences (s − s⁻)/δ that the forces met.

    Raises:
        ConfigurationError: an argument out of its range.

    Example:
        >>> from lightning_lead.analysis import ConservativeForce, Friction
        >>> forces = [ConservativeForce(lambda s: (s**2).sum() / 2), Friction(coefficient=1.0)]
        >>> path = discretise(forces, [1.0], time_step=0.5, steps=2, start="rest")
        >>> path.positions.flatten().tolist()  # heavy ball, β = 0.5, η = 0.25: 1 − 0.25, 0.75 − 0.125 − 0.1875
        [1.0, 0.75, 0.4375]
    """
    here, before = _start(forces, position, velocity, time_step=time_step, steps=steps, start=start)
    path = [before, here]
    for _ in range(steps):
        before, here = path[-2:]
        path.append(2 * here - before + time_step**2 * acceleration(forces, here, (here - before) / time_step))
    return _trajectory(path, time_step)


def lead_path(
    game: AbstractGame,
    position: Position,
    velocity: Position | None = None,
    *,
    charge: float,
    friction: float,
    time_step: float,
    steps: int,
    start: Start = "rest",
) -> Trajectory:
    """LEAD's steps, Algorithm 1 in simultaneous play, in the units of the physical system.

        s⁺ = s + β(s − s⁻) − η v(s) − α K(s)(s − s⁻)

    Equal to `discretise` with the vortex force, the magnetic force and friction, to rounding; it is written out here so
    that each can be held against the other.

    Cost: one gradient and one cross term per player and step (here the game's dense Jacobian).

    Args:
        game: the game that is played.
        position: s(0): a point of the game, or its vector (x, y).
        velocity: ṡ(0) in the same form; None is at rest.
        charge: q ≥ 0.
        friction: μ in [0, 1/δ].
        time_step: δ > 0.
        steps: how many, at least 1.
        start: "rest" for s⁻ = s − δṡ, with which an optimizer begins, or "taylor", see `discretise`.

    Returns:
        The path at times 0, δ, 2δ, …; its velocities are backward differences.

    Raises:
        ConfigurationError: an argument out of its range.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> game = BilinearGame([[1.0]])
        >>> for charge in (0.0, 1.0):  # the same friction, without and with the magnetic force
        ...     path = lead_path(game, [1.0, 0.0], charge=charge, friction=1.0, time_step=0.05, steps=200)
        ...     print(f"{path.positions[-1].norm().item():.2f}")
        14.47
        0.01
    """
    eta, beta, alpha = LeadUnits.from_physics(charge=charge, friction=friction, time_step=time_step)
    forces = lead_forces(game, charge=charge, friction=friction)
    here, before = _start(forces, position, velocity, time_step=time_step, steps=steps, start=start)
    path = [before, here]
    for _ in range(steps):
        before, here = path[-2:]
        moved = here - before
        jacobian = game.jacobian(game_point(game, here)).to(here.dtype)
        turn = (jacobian - jacobian.T) @ moved / 2
        path.append(here + beta * moved - eta * joint_field(game, here) - alpha * turn)
    return _trajectory(path, time_step)


def lead_forces(game: AbstractGame, *, charge: float, friction: float) -> list[AbstractForce]:
    """The forces that LEAD is made of: vortex, magnetic, friction.

    Args:
        game: the game that is played.
        charge: q, finite.
        friction: μ ≥ 0.

    Returns:
        One force of each kind.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> [type(force).__name__ for force in lead_forces(BilinearGame([[1.0]]), charge=0.5, friction=1.0)]
        ['VortexForce', 'MagneticForce', 'Friction']
    """
    return [VortexForce(game), MagneticForce(game, charge=charge), Friction(coefficient=friction)]


def _start(
    forces: Sequence[AbstractForce],
    position: Position,
    velocity: Position | None,
    *,
    time_step: float,
    steps: int,
    start: Start,
) -> tuple[Tensor, Tensor]:
    """The first position and the one that is taken to lie before it."""
    check_time_step(time_step)
    if steps < 1:
        raise ConfigurationError(f"Cannot make a path because it has at least one step (got steps={steps!r}).")
    if start not in ("taylor", "rest"):
        raise ConfigurationError(f"Cannot start this way because start is 'taylor' or 'rest' (got {start!r}).")
    here = joint_vector(position)
    speed = joint_velocity(velocity, here)
    force = acceleration(forces, here, speed)  # also the check that the forces fit
    before = here - time_step * speed
    if start == "taylor":
        before = before + time_step**2 / 2 * force
    return here, before


def _trajectory(path: Sequence[Tensor], time_step: float) -> Trajectory:
    """From positions at −δ, 0, δ, …: the first is there for its difference only."""
    positions = torch.stack(list(path))
    times = time_step * torch.arange(len(path) - 1, dtype=torch.float64)
    return Trajectory(times, positions[1:], positions.diff(dim=0) / time_step)

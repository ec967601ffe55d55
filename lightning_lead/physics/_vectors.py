"""The joint vector s = (x, y) of a game, flat as solvers and matrices want it, and back to the game's point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point, Vector
from lightning_lead.games.base import AbstractGame

__all__ = [
    "Position",
    "check_time_step",
    "constant_jacobian",
    "game_point",
    "joint_field",
    "joint_vector",
    "joint_velocity",
]

Position = Tensor | Sequence[float] | Point  # what a user may pass for a position or a velocity


def joint_vector(position: Position, *, what: str = "position") -> Tensor:  # (d,)
    """One flat float64 vector from a tensor, numbers, or a point of a game (x first)."""
    if isinstance(position, Mapping):
        position = torch.cat([tensor.reshape(-1) for player in ("x", "y") for tensor in position[player]])
    vector = torch.as_tensor(position, dtype=torch.float64).detach().clone()
    if vector.ndim != 1 or vector.numel() == 0 or not bool(vector.isfinite().all()):
        raise ConfigurationError(
            f"Cannot start from this {what} because a particle has one finite coordinate per parameter; pass a vector "
            f"of shape (d,), d ≥ 1, or a point of a game (got shape {tuple(vector.shape)}"
            f"{', with non-finite entries' if not bool(vector.isfinite().all()) else ''})."
        )
    return vector


def joint_velocity(velocity: Position | None, position: Tensor) -> Tensor:  # (d,)
    """The velocity that belongs to a position: at rest unless given."""
    if velocity is None:
        return torch.zeros_like(position)
    vector = joint_vector(velocity, what="velocity")
    if vector.shape != position.shape:
        raise ConfigurationError(
            f"Cannot start the particle because position and velocity have different lengths; pass one velocity per "
            f"coordinate (got {position.numel()} and {vector.numel()})."
        )
    return vector


def game_point(game: AbstractGame, position: Tensor) -> dict[str, Vector]:
    """The game's point at a flat position."""
    n, m = game.dimensions
    if position.shape != (n + m,):
        raise ConfigurationError(
            f"Cannot evaluate {type(game).__name__} here because its players have {n} and {m} coordinates; pass a flat "
            f"vector of shape ({n + m},) (got {tuple(position.shape)})."
        )
    return game.point(*position.detach().split([n, m]))


def joint_field(game: AbstractGame, position: Tensor) -> Tensor:  # (n + m,)
    """The joint field v(s) of a game as a flat vector of the position's dtype."""
    field = game.field(game_point(game, position))
    return torch.cat([field["x"][0], field["y"][0]]).to(position.dtype)


def check_time_step(time_step: float) -> None:
    """Refuse a time step that is not finite and positive with a ConfigurationError."""
    if not (math.isfinite(time_step) and time_step > 0):
        raise ConfigurationError(f"Cannot use time_step because it must be finite and > 0 (got {time_step!r}).")


def constant_jacobian(game: AbstractGame) -> Tensor:  # (n + m, n + m)
    """The Jacobian of a game whose field is linear, in float64."""
    here = game.jacobian(game.equilibrium()).to(torch.float64)
    for seed in range(3):  # a linear field shows the same J everywhere; three normal points tell any other one apart
        there = game.jacobian(game.random_point(seed=seed)).to(torch.float64)
        if not torch.allclose(here, there, rtol=1e-12, atol=1e-12):
            raise ConfigurationError(
                f"Cannot treat the field of {type(game).__name__} as linear because its Jacobian changes from point to "
                "point; take a bilinear or quadratic game, or linearise with lead_system (got a difference of "
                f"{(here - there).abs().max().item():.3g})."
            )
    return here

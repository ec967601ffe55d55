"""The forces on a particle of mass 1 at s = (x, y), of which LEAD is the motion: s̈ = Σ F(s, ṡ).

    conservative   F = −∇U(s)              keeps ½|ṡ|² + U
    vortex         F = −v(s)               v = (∇ₓLₓ, ∇ᵧLᵧ); zero-sum: (−∇ₓf, +∇ᵧf)
    magnetic       F = −q(J − Jᵀ)ṡ         zero-sum: (−2q(∇²ₓᵧf)ẏ, +2q(∇²ᵧₓf)ẋ); does no work: ṡᵀF = 0
    friction       F = −μṡ                 takes energy out: ṡᵀF = −μ|ṡ|²

J = ∂v/∂s is the game's Jacobian. Its diagonal blocks are Hessians and cancel in J − Jᵀ, so only the cross terms remain:
F_x = −q(J_xy − J_yxᵀ)ẏ. That is the mean of LEAD's own form (−2q J_xy ẏ) and its opponent form (+2q J_yxᵀ ẏ), which
agree in a zero-sum game; in other games only the mean does no work.

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023, where the vortex
and the magnetic force and friction are put together; Balduzzi et al., "The Mechanics of n-Player Differentiable
Games", ICML 2018, for the symmetric and the antisymmetric part of J.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.games.base import AbstractGame
from lightning_lead.physics._vectors import constant_jacobian, game_point, joint_field

__all__ = ["AbstractForce", "ConservativeForce", "Friction", "MagneticForce", "VortexForce"]


class AbstractForce(ABC):
    """A force on one particle of mass 1: position and velocity in, acceleration out.

    Positions, velocities and forces are flat vectors; in a game that is (x, y), x first. A subclass is final.

    Example:
        >>> drag: AbstractForce = Friction(coefficient=0.5)
        >>> drag(torch.zeros(2), torch.tensor([1.0, -2.0])).tolist()
        [-0.5, 1.0]
    """

    @abstractmethod
    def __call__(
        self,
        position: Tensor,  # (d,)
        velocity: Tensor,  # (d,)
    ) -> Tensor:  # (d,)
        """The force there."""


@final
class ConservativeForce(AbstractForce):
    """The force of a potential, F = −∇U(s): what a single player's loss does to its parameters.

    Cost: one gradient of U.

    Args:
        potential: U, from a vector of shape (d,) to a scalar; differentiable by torch.

    Raises:
        ConfigurationError: at the first call, if U does not return a scalar.

    Example:
        >>> spring = ConservativeForce(lambda s: (s**2).sum() / 2)
        >>> spring(torch.tensor([3.0]), torch.zeros(1)).item(), spring.energy(torch.tensor([3.0])).item()
        (-3.0, 4.5)
    """

    def __init__(self, potential: Callable[[Tensor], Tensor]) -> None:
        check_arguments(ConservativeForce, locals())
        self.potential = potential

    @classmethod
    def of_game(cls, game: AbstractGame) -> ConservativeForce:
        """The conservative part of a linear field: v = Js has the potential U = ½ sᵀSs, S = ½(J + Jᵀ), and a rotation.

        The vortex force is minus the whole field, so it already includes this part. A game with a Jacobian that changes
        from point to point has no such split.

        Args:
            game: one whose field is linear, such as the bilinear and the quadratic game.

        Returns:
            The force −Ss.

        Raises:
            ConfigurationError: the game's Jacobian is not constant.

        Example:
            >>> from lightning_lead.games import QuadraticGame
            >>> force = ConservativeForce.of_game(QuadraticGame([[2.0]], curvature=0.5))
            >>> force(torch.tensor([1.0, 4.0]), torch.zeros(2)).tolist()  # the coupling A = 2 plays no part
            [-0.5, -2.0]
        """
        jacobian = constant_jacobian(game)
        symmetric = (jacobian + jacobian.T) / 2
        return cls(lambda s: s @ symmetric.to(s.dtype) @ s / 2)

    def energy(self, position: Tensor) -> Tensor:
        """Potential energy.

        Args:
            position: one vector of shape (d,), or a path of shape (times, d).

        Returns:
            U: a scalar, or shape (times,).
        """
        if position.ndim == 2:
            return torch.stack([self.energy(row) for row in position])
        value = self.potential(position.detach())
        if value.shape != ():
            raise ConfigurationError(
                "Cannot take the gradient of this potential because it has more than one value; return a scalar, "
                f"such as a sum (got shape {tuple(value.shape)})."
            )
        return value.detach()

    def __call__(self, position: Tensor, velocity: Tensor) -> Tensor:
        """See `AbstractForce`: −∇U(s); the velocity plays no part."""
        self.energy(position)
        with torch.enable_grad():
            here = position.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.potential(here), here)
        return -gradient


@final
class VortexForce(AbstractForce):
    """The force of the game, F = −v(s): each player is pushed down its own loss; zero-sum (−∇ₓf, +∇ᵧf).

    Under a bilinear coupling it turns around the equilibrium, so a particle that follows it gains energy with every
    round. On a game with curvature it includes the conservative part, `ConservativeForce.of_game`.

    Cost: one gradient per player.

    Args:
        game: whose field it is.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> VortexForce(BilinearGame([[1.0]]))(torch.tensor([1.0, 0.0]), torch.zeros(2)).tolist()
        [-0.0, 1.0]
    """

    def __init__(self, game: AbstractGame) -> None:
        check_arguments(VortexForce, locals())
        self.game = game

    def __call__(self, position: Tensor, velocity: Tensor) -> Tensor:
        """See `AbstractForce`: −v(s); the velocity plays no part."""
        return -joint_field(self.game, position)


@final
class MagneticForce(AbstractForce):
    """The force that turns the velocity and does no work: (−2q(∇²ₓᵧf)ẏ, +2q(∇²ᵧₓf)ẋ) in a zero-sum game.

    In any game F = −q(J − Jᵀ)ṡ, the mean of LEAD's own and opponent form of the cross term, see the head of the module.

    Cost: one cross term per player; here the game's dense Jacobian.

    Args:
        game: whose cross derivatives act as the magnetic field.
        charge: q, finite; LEAD has q ≥ 0, a negative one turns the other way.

    Raises:
        ConfigurationError: q is not finite.

    Example:
        >>> from lightning_lead.games import BilinearGame
        >>> velocity = torch.tensor([1.0, 0.0])
        >>> force = MagneticForce(BilinearGame([[1.0]]), charge=0.5)(torch.ones(2), velocity)
        >>> force.tolist(), (force @ velocity).item()
        ([-0.0, 1.0], 0.0)
    """

    def __init__(self, game: AbstractGame, *, charge: float) -> None:
        check_arguments(MagneticForce, locals())
        if not math.isfinite(charge):
            raise ConfigurationError(
                f"Cannot build MagneticForce because charge must be a finite number (got {charge!r})."
            )
        self.game = game
        self.charge = float(charge)

    def __call__(self, position: Tensor, velocity: Tensor) -> Tensor:
        """See `AbstractForce`: −q(J − Jᵀ)ṡ."""
        jacobian = self.game.jacobian(game_point(self.game, position)).to(velocity.dtype)
        return -self.charge * ((jacobian - jacobian.T) @ velocity.detach())


@final
class Friction(AbstractForce):
    """The force against the motion, F = −μṡ; in LEAD it is what momentum below 1 does.

    Args:
        coefficient: μ, finite and at least 0.

    Raises:
        ConfigurationError: μ is negative or not finite.

    Example:
        >>> Friction(coefficient=2.0)(torch.zeros(1), torch.tensor([3.0])).item()
        -6.0
    """

    def __init__(self, *, coefficient: float) -> None:
        check_arguments(Friction, locals())
        if not (math.isfinite(coefficient) and coefficient >= 0):
            raise ConfigurationError(
                "Cannot build Friction because a negative coefficient drives the particle; pass a finite μ of at least "
                f"0 (got {coefficient!r})."
            )
        self.coefficient = float(coefficient)

    def __call__(self, position: Tensor, velocity: Tensor) -> Tensor:
        """See `AbstractForce`: −μṡ; the position plays no part."""
        return -self.coefficient * velocity.detach()

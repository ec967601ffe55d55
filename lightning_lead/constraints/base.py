"""The base of sets that a player's parameters stay in, and the check of a player that begins in one.

    θ⁺ = P(θ'),      θ' where the optimizer would take θ, P the nearest point of the set

The optimizer moves, and the constraint follows. So a displacement, as LEAD remembers it, is the move that was really
made, and a point that the optimizer would push out of the set is at rest on its edge.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError

__all__ = ["AbstractConstraint", "check_constraints"]


class AbstractConstraint(abc.ABC):
    """A closed convex set that each tensor of a player stays in.

    Example:
        >>> class AtMostOne(AbstractConstraint):
        ...     def project(self, tensor):
        ...         return tensor.clamp(max=1.0)
        >>> AtMostOne().move(torch.zeros(2), torch.tensor([0.5, 3.0]))
        tensor([0.5000, 1.0000])
    """

    @abc.abstractmethod
    def project(self, tensor: Tensor) -> Tensor:
        """Return the nearest point of the set, of the same shape; of a point in the set, that point.

        Args:
            tensor: any point.
        """

    def move(self, before: Tensor, after: Tensor) -> Tensor:
        """Return where a step of the optimizer ends; by default the projection of where it would have ended.

        Args:
            before: a point of the set.
            after: the point that the optimizer has moved it to.
        """
        return self.project(after)


def check_constraints(constraints: Mapping[str, AbstractConstraint], players: Mapping[str, Sequence[Tensor]]) -> None:
    """Refuse constraints of no player, points outside of their sets, and projections that are none.

    Args:
        constraints: player -> the set that its parameters stay in.
        players: player -> its parameters.

    Raises:
        ConfigurationError: any of these.

    Example:
        >>> from lightning_lead.constraints import NonNegative
        >>> check_constraints({"x": NonNegative()}, {"x": [torch.ones(2)]})
    """
    for name, constraint in constraints.items():
        if name not in players:
            raise ConfigurationError(
                f"Cannot constrain {name!r} because it is no player; let constraints() name some of {list(players)}"
            )
        if not isinstance(constraint, AbstractConstraint):
            raise ConfigurationError(
                f"Cannot constrain {name!r} because constraints() returned what is no constraint; return one of "
                f"lightning_lead.constraints, or a subclass of AbstractConstraint (got {constraint!r})"
            )
        for parameter in players[name]:
            _check_projection(name, constraint, parameter.detach())


def _check_projection(name: str, constraint: AbstractConstraint, point: Tensor) -> None:
    eps = torch.finfo(point.dtype).eps
    tolerance = 1e3 * eps if eps < 1e-6 else 4 * eps  # of 16 bits a thousandfold would be anything
    nearest = constraint.project(point.clone())
    if not isinstance(nearest, Tensor) or nearest.shape != point.shape:
        got = list(nearest.shape) if isinstance(nearest, Tensor) else type(nearest).__name__
        raise ConfigurationError(
            f"Cannot constrain {name!r} because the projection of {constraint!r} returned no tensor of the parameter's "
            f"shape {list(point.shape)}; return one (got {got})"
        )
    # farther out than the point itself, where a projection has something to do
    for start in (nearest, 2 * point + 1, point - 3):
        once = constraint.project(start.clone())
        if not torch.allclose(constraint.project(once.clone()), once, rtol=tolerance, atol=tolerance):
            raise ConfigurationError(
                f"Cannot constrain {name!r} because the projection of {constraint!r} moves a point again that it has "
                "returned itself, so parameters would drift; let project(project(θ)) equal project(θ)"
            )
    if not torch.allclose(nearest, point, rtol=tolerance, atol=tolerance):
        off = float((nearest - point).abs().max())
        raise ConfigurationError(
            f"Cannot start because a parameter of {name!r} lies outside of {constraint!r}; initialise it inside, as by "
            f"constraint.project(tensor) (got one {off:.3g} away)"
        )

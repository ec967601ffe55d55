"""AbstractAttack: the player that perturbs images, and what a game step asks of it.

x' = x + δ,   or whatever else the attack makes of x,   in the range of the images
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Play
from lightning_lead.constraints import AbstractConstraint
from lightning_lead.robust.sign_descent import SignDescent

__all__ = ["AbstractAttack", "cannot_play"]


class AbstractAttack(nn.Module, abc.ABC):
    """A module whose parameters are moved so that a network errs on the images that it perturbs.

    Attributes:
        step_size: the learning rate of its optimizer, > 0.
        renewed: True if its parameters are one perturbation per sample, set anew for each batch.

    Example:
        >>> class Brightness(AbstractAttack):
        ...     step_size = 0.01
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.shift = nn.Parameter(torch.zeros(()))
        ...     def forward(self, images, rows, value_range):
        ...         return (images + self.shift).clamp(*value_range)
        ...     def constraint(self):
        ...         return LInfBall(0.1)
        >>> from lightning_lead.constraints import LInfBall
        >>> Brightness()(torch.zeros(1, 2), None, (-1.0, 1.0))
        tensor([[0., 0.]], grad_fn=<ClampBackward1>)
    """

    step_size: float
    renewed: bool = False

    @abc.abstractmethod
    def forward(self, images: Tensor, rows: Tensor | None, value_range: tuple[float, float]) -> Tensor:
        """Return perturbed images of the same shape, in the range.

        Args:
            images: (n, …), in the range.
            rows: (n,) int64, where the samples stand in the loader's batch; None for its first n.
            value_range: lowest and highest value of an image.
        """

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Return the optimizer of its parameters, by default `SignDescent`.

        Args:
            groups: param groups.
        """
        return SignDescent(groups)

    def constraint(self) -> AbstractConstraint | None:
        """Return where its parameters live on the batch that was last met; None for anywhere."""
        return None

    def renew(self, images: Tensor, value_range: tuple[float, float], start: float | None) -> None:
        """Set the parameters anew for a batch; asked only of attacks that are `renewed`.

        Args:
            images: of the batch.
            value_range: lowest and highest value of an image.
            start: width of a normal start that the loss asks for; None for the attack's own.
        """

    def meet(self, images: Tensor, value_range: tuple[float, float]) -> None:
        """Learn the bounds of a batch, before its turns; also of one that a resumed run is in the middle of.

        Args:
            images: of the batch.
            value_range: lowest and highest value of an image.
        """

    def turns(self, play: Play) -> list[tuple[str, ...]]:
        """Return who moves in each turn of a game step; by default each once.

        Args:
            play: "alternating" or "simultaneous".

        Raises:
            ConfigurationError: the attack is not defined for this play.
        """
        return [("attack", "network")] if play == "simultaneous" else [("attack",), ("network",)]


def cannot_play(attack: AbstractAttack, play: Play, why: str) -> ConfigurationError:
    """Return the error of an attack that is not defined for an order of play."""
    return ConfigurationError(f"Cannot attack by {type(attack).__name__} in {play} play because {why} (got {play!r})")

"""A swap: for a while, every slot of a module that holds a player's parameter holds another tensor instead.

Slots, not names: a network that is registered twice, or a parameter that two layers share, has several names and one
index in a vector. The context stays open while derivatives are taken: a forward that the backward pass recomputes
(activation checkpointing) then finds the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Point

__all__ = ["Swap"]


class Swap:
    """The slots of the players' parameters in a module, and a context in which they hold another point.

    Args:
        module: that holds both players.
        players: name -> live parameters.

    Raises:
        ConfigurationError: a parameter that is not registered in the module.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> swap = Swap(layer, {"x": [layer.weight]})
        >>> with swap({"x": (torch.zeros(1, 1),)}):
        ...     layer(torch.ones(1, 1)).item()
        0.0
        >>> isinstance(layer.weight, nn.Parameter)
        True
    """

    def __init__(self, module: nn.Module, players: Mapping[str, Sequence[Tensor]]) -> None:
        check_arguments(Swap, locals())
        homes: dict[int, list[tuple[dict[str, Any], str]]] = {}  # id of a parameter -> its slots
        for child in module.modules():
            for name, parameter in child._parameters.items():
                if parameter is not None:
                    homes.setdefault(id(parameter), []).append((child._parameters, name))
        self._slots: dict[str, list[list[tuple[dict[str, Any], str]]]] = {}
        for player, parameters in players.items():
            if lost := sum(id(p) not in homes for p in parameters):
                raise ConfigurationError(
                    f"Cannot train player {player!r} because {lost} of its parameters are not registered in the "
                    "module; assign its network as an attribute (a plain list hides it; use nn.ModuleList)"
                )
            self._slots[player] = [homes[id(p)] for p in parameters]

    @contextmanager
    def __call__(self, point: Point) -> Iterator[None]:
        """Hold the module at a point; afterwards it is exactly as before. Contexts may be nested.

        Args:
            point: name -> one tensor per live parameter, of its shape; players that are left out stay as they are.
        """
        before: list[tuple[dict[str, Any], str, Tensor]] = []
        try:
            for player, vector in point.items():
                for slots, tensor in zip(self._slots[player], vector, strict=True):
                    for parameters, name in slots:
                        before.append((parameters, name, parameters[name]))
                        parameters[name] = tensor
            yield
        finally:
            # backwards, so that a slot that was filled twice ends with its first tensor
            for parameters, name, tensor in reversed(before):
                parameters[name] = tensor

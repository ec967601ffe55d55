"""Turns of a game step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead.engine._batches import tensors_of

__all__ = ["Turn", "check_turns", "without_frozen"]


class Turn(NamedTuple):
    """One move: the players that make it, and its micro-batches, of equal sizes, one per round of accumulation.

    Example:
        >>> import torch
        >>> Turn(("x",), [torch.zeros(4)], 4).players
        ('x',)
    """

    players: tuple[str, ...]
    micro_batches: Sequence[Any]
    batch_size: int


def without_frozen(turns: Sequence[Turn], live: Mapping[str, Sequence[Tensor]]) -> list[Turn]:
    """Return the turns of players that move, without those of one whose parameters are all frozen.

    Raises:
        ConfigurationError: only players that are frozen have a turn, or one shares its turn with the other player.
    """
    frozen = {name for name, params in live.items() if not any(p.requires_grad for p in params)}
    moving = [turn for turn in turns if not frozen.issuperset(turn.players)]
    if shared := [turn for turn in moving if frozen.intersection(turn.players)]:
        raise ConfigurationError(
            f"Cannot play a turn of {' and '.join(shared[0].players)} together because {' and '.join(sorted(frozen))} "
            "is frozen as a whole; give each a turn of its own"
        )
    if turns and not moving:
        raise ConfigurationError(
            f"Cannot play a game step in which {' and '.join(sorted(frozen))} alone would move, because no "
            "parameter of it requires a gradient; unfreeze it, or give the other player a turn"
        )
    return moving


def check_turns(turns: Sequence[Turn], *, alone: bool = True) -> None:
    """Refuse a game step without a turn, batches without samples, and batches that networks have made.

    No derivative reaches the players by a batch that has a graph, and a mean over no samples is no number. Of several
    ranks one may be without samples: not `alone`, it does not count.

    Raises:
        ConfigurationError: no turns, or a tensor of a micro-batch has a graph, or the first one has no samples.
    """
    if not turns:
        raise ConfigurationError(
            "Cannot play a game step in which nobody moves, after which there would be as many as before; let "
            "game_turns(batch) return one turn at least (got no turns)"
        )
    for turn in turns:
        firsts = (next(tensors_of(batch), None) for batch in turn.micro_batches)
        if alone and any(first is not None and first.dim() and not len(first) for first in firsts):
            raise ConfigurationError(
                f"Cannot play the turn of {' and '.join(turn.players)} because its batch is empty; let the loader "
                "leave such batches out, or yield None, which Lightning skips"
            )
        if any(tensor.grad_fn is not None for batch in turn.micro_batches for tensor in tensors_of(batch)):
            raise ConfigurationError(
                f"Cannot play the turn of {' and '.join(turn.players)} because its batch is the output of a network, "
                "whose parameters would not be differentiated by; draw latents in game_turns(), and call networks in "
                "the losses (or detach() what is to be a constant)"
            )

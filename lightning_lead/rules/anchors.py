"""Where the players stood: the memory of rules that look ahead by the opponent's last move.

    Δ_j = θ_j − anchor_j,      anchor_j is θ_j at player i's own previous update

So of several discriminator steps the first alone meets a Δ_G, and the generator meets the sum of all the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_lead._typing import Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.players import extrapolated, opponent_of
from lightning_lead.rules.base import RuleState

__all__ = ["anchor_of", "extrapolated_gradient", "follow", "start_anchors"]


def start_anchors(point: Point) -> RuleState:
    """Return the anchors before the first step, when nobody has moved.

    Args:
        point: parameters of the players whose moves are counted; copied.

    Example:
        >>> start_anchors({"x": (torch.zeros(1),)})
        {'anchor': {'x': (tensor([0.]),)}, 'moved': {'x': False}}
    """
    return {"anchor": {name: _copy(v) for name, v in point.items()}, "moved": dict.fromkeys(point, False)}


def anchor_of(player: str, state: RuleState) -> Vector | None:
    """Return where a player stood when its opponent last updated, or None if it has not moved since.

    A flag decides, not a norm: no synchronisation, and nothing is paid for a Δ of zero.

    Args:
        player: who has moved.
        state: as `start_anchors` or `follow` returned it; of a player that is not in it nothing is known.
    """
    anchor: Vector | None = state["anchor"][player] if state["moved"].get(player) else None
    return anchor


def extrapolated_gradient(oracle: GameOracle, player: str, weight: float, state: RuleState) -> Vector:
    """Return ∇_i L_i(θ_i, θ_j + weight·Δ_j), the turn's only look and its real forward.

    Cost: one gradient. Where Δ_j or the weight is zero, it is the plain gradient.

    Args:
        oracle: of this turn.
        player: i, who moves.
        weight: of Δ_j; −1 is the opponent as it was.
        state: the anchors.
    """
    opponent = opponent_of(player, oracle.names)
    before = anchor_of(opponent, state)
    if before is None or weight == 0:
        return oracle.gradient(player)
    there = {**oracle.point, opponent: extrapolated(oracle.point[opponent], before, weight)}
    return oracle.gradient(player, at=there, replay=False)


def follow(oracle: GameOracle, players: Sequence[str], state: RuleState) -> RuleState:
    """Return the anchors after a turn: the movers have seen their opponents, and have moved themselves.

    Args:
        oracle: of this turn, whose gradients have been taken: copies come after the step's peak of memory.
        players: who moves.
        state: the anchors before; not changed in place.
    """
    anchor, moved = dict(state["anchor"]), dict(state["moved"])
    for player in players:
        opponent = opponent_of(player, oracle.names)
        if moved.get(opponent):
            anchor[opponent], moved[opponent] = _copy(oracle.point[opponent]), False
    moved |= dict.fromkeys(moved.keys() & set(players), True)
    return {"anchor": anchor, "moved": moved}


def _copy(vector: Vector) -> Vector:
    """Own copies in at least float32: an alias of the live weights would make every displacement zero."""
    return tuple(p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in vector)

"""Anchors, where the players stood: the memory of rules that look ahead by the opponent's last move.

    Δ_j = θ_j − anchor_j,      anchor_j is θ_j at player i's own previous update

So of several discriminator steps the first alone meets a Δ_G, and the generator meets the sum of all the steps. Of two
players each has one opponent, and its anchor stands under the name of the one who is seen. Of more players each sees
every other one from an update of its own, so anchors stand under the name of the one who sees, and then of the seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_lead._types import Point, Vector
from lightning_lead.calculus._players import extrapolated, joined, opponent_of, opponents_of, parted, snapshot
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import RuleState

__all__ = ["anchor_of", "follow", "gradient_ahead", "gradient_by_weights", "opponents_before", "start_anchors"]


def start_anchors(point: Point) -> RuleState:
    """Return the anchors before the first step, when nobody has moved."""
    if len(point) <= 2:
        return {"anchor": {name: snapshot(v) for name, v in point.items()}, "moved": dict.fromkeys(point, False)}
    seen = {name: opponents_of(name, point) for name in point}
    anchors = {name: {other: snapshot(point[other]) for other in others} for name, others in seen.items()}
    return {"anchor": anchors, "moved": {name: dict.fromkeys(others, False) for name, others in seen.items()}}


def anchor_of(player: str, state: RuleState) -> Vector | None:
    """Return where a player stood when its opponent last updated, or None if it has not moved since.

    A flag decides, not a norm: no synchronisation, and nothing is paid for a Δ of zero.
    """
    anchor: Vector | None = state["anchor"][player] if state["moved"].get(player) else None
    return anchor


def opponents_before(player: str, point: Point, state: RuleState) -> Vector | None:
    """Return where a player's opponents stood when it last updated, one after the other, or None if none has moved."""
    if len(point) <= 2:
        return anchor_of(opponent_of(player, tuple(point)), state)
    anchors, moved = state["anchor"][player], state["moved"][player]
    if not any(moved.values()):
        return None
    before = {name: anchors[name] if moved[name] else snapshot(point[name]) for name in moved}
    return joined(before, opponents_of(player, point))  # in the order of play, which a state need not keep


def gradient_ahead(oracle: GameOracle, player: str, weight: float, before: Vector, *, replay: bool = False) -> Vector:
    """Return ∇_i L_i(θ_i, P(θ_j + weight·Δ_j)), P onto the set that θ_j stays in. Cost: one gradient.

    All opponents are ahead at once, each by its own Δ_j; `before` is that of `opponents_before`.
    """
    opponents = opponents_of(player, oracle.names)
    ahead = parted(extrapolated(joined(oracle.point, opponents), before, weight), oracle.point, opponents)
    ahead = {name: oracle.feasible(name, vector) for name, vector in ahead.items()}
    return oracle.gradient(player, at={**oracle.point, **ahead}, replay=replay)


def gradient_by_weights(
    oracle: GameOracle, players: Sequence[str], state: RuleState, weights: Mapping[str, float]
) -> tuple[dict[str, Vector], RuleState]:
    """Return the whole of a rule that faces displaced opponents: each turn's only look, and the anchors after it.

    Cost: one gradient per mover, the plain one where Δ_j or its weight is zero.
    """
    directions = {}
    state = _of_those_met_ahead(oracle, state, weights)
    for player in players:
        before, weight = anchor_of(opponent_of(player, oracle.names), state), weights[player]
        if before is None or weight == 0:
            directions[player] = oracle.gradient(player)
        else:
            directions[player] = gradient_ahead(oracle, player, weight, before)
    return directions, follow(oracle, players, state)


def follow(oracle: GameOracle, players: Sequence[str], state: RuleState) -> RuleState:
    """Return the anchors after a turn: the movers have seen their opponents, and have moved themselves."""
    anchor, moved = state["anchor"] | {}, dict(state["moved"])  # copies; what is not looked up stays where it is
    if len(oracle.names) > 2:
        for player in players:
            new = {name: snapshot(oracle.point[name]) for name, has in moved[player].items() if has}
            anchor[player], moved[player] = anchor[player] | new, dict.fromkeys(moved[player], False)
        moved = {name: {other: has or other in players for other, has in seen.items()} for name, seen in moved.items()}
        return {"anchor": anchor, "moved": moved}
    for player in players:
        opponent = opponent_of(player, oracle.names)
        if moved.get(opponent):
            anchor[opponent], moved[opponent] = snapshot(oracle.point[opponent]), False
    moved |= dict.fromkeys(moved.keys() & set(players), True)
    return {"anchor": anchor, "moved": moved}


def _of_those_met_ahead(oracle: GameOracle, state: RuleState, weights: Mapping[str, float]) -> RuleState:
    """Return the anchors that the weights ask for: a run that goes on with other weights may lack one, or have more."""
    ahead = {name: oracle.point[name] for name in oracle.names if weights[opponent_of(name, oracle.names)] != 0}
    if ahead.keys() == state["anchor"].keys():
        return state
    started = start_anchors({name: vector for name, vector in ahead.items() if name not in state["anchor"]})
    return {part: {name: (state[part] | started[part])[name] for name in ahead} for part in ("anchor", "moved")}

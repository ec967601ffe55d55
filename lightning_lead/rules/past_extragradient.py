"""Past extragradient: look ahead by the last gradient, and step from where you are by the one that is found there.

    θ̃ = θ + u(v⁻),   moments updated;        v = v(θ̃),   θ⁺ = θ + u(v),   moments updated again;        v = (g_x, g_y)

u is the optimizer's step, v⁻ the v of the game step before; where there is none, θ̃ = θ. Extragradient at the price of
gradient play: v⁻ stands in for v(θ). With Adam it is the single-call ExtraAdam, PastExtraAdam, whose moments see every
gradient twice. With SGD, u = −ηv, the points θ̃ are those of the optimistic gradient:

    θ̃⁺ = θ⁺ − ηv = θ̃ − 2ηv + ηv⁻

References: Popov, "A modification of the Arrow-Hurwicz method", 1980; Gidel, Berard, Vignoud, Vincent and
Lacoste-Julien, "A Variational Inequality Perspective on Generative Adversarial Networks", ICLR 2019, Algorithm 4 with
option 2, extrapolation from the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus._players import snapshot
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["PastExtragradient"]


@final
class PastExtragradient(AbstractGameRule):
    """d = v(θ̃), θ̃ one remembered optimizer step ahead along the last d. State: the last gradient of each player.

    Cost: one gradient per player update. The optimizer is the one that you configure.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> path = simulate(PastExtragradient(), BilinearGame([[1.0]]), lr=0.3, steps=200)
        >>> path.distances[-1] < 1e-3 * path.distances[0]
        True
    """

    # and not `displaces`: all players face one point, where they may share fakes
    needs = RuleNeeds(uses_opponent=True, plays_several=True)
    cost = Cost(gradients=2)
    affine = True
    plays: tuple[Play, ...] = ("simultaneous",)

    def init(self, point: Point) -> RuleState:
        """No gradient has been seen."""
        return {"gradient": {}}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """Both gradients at the look-ahead, which the optimizer remembers; it is the game step's real forward."""
        if last := state["gradient"]:
            oracle.arrive(oracle.ahead(last, remember=True))  # the turn is played from there, by both players
        seen = {player: oracle.gradient(player) for player in players}
        return seen, {"gradient": {player: snapshot(gradient) for player, gradient in seen.items()}}

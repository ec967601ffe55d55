"""ExtraAdam: extragradient with an optimizer whose memory sees both gradients.

    θ̃ = θ + u(g(θ)),   moments updated;        θ⁺ = θ + u(g(θ̃)),   moments updated again

u is the optimizer's step, with Adam −η m̂/(√v̂ + ε), whose bias correction counts both updates; the authors' code
(optim/extragradient.py of their repository) does the same, but for an ε that stands beside √v and not √v̂. The paper's
algorithm draws a fresh sample for the second gradient; here both are of one batch and one draw of latents, so that a
game step takes one batch whatever the rule.

Reference: Gidel, Berard, Vignoud, Vincent and Lacoste-Julien, "A Variational Inequality Perspective on Generative
Adversarial Networks", ICLR 2019, Algorithm 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning_lead._types import Play, Point, Vector
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState

__all__ = ["ExtraAdam"]


@final
class ExtraAdam(AbstractGameRule):
    """d = v(θ̃), θ̃ one remembered optimizer step ahead. Cost: two gradients per player update. No state of its own.

    The optimizer is the one that you configure; with Adam the rule has its name, with SGD it is extragradient.

    Example:
        >>> from lightning_lead.analysis import simulate
        >>> from lightning_lead.games import BilinearGame
        >>> import torch
        >>> adam = lambda groups: torch.optim.Adam(groups, betas=(0.0, 0.9))
        >>> path = simulate(ExtraAdam(), BilinearGame([[1.0]]), lr=0.01, steps=700, optimizer=adam)
        >>> path.distances[-1] < 0.1 * path.distances[0]
        True
    """

    needs = RuleNeeds(repeats_batch=True, uses_opponent=True, plays_several=True)
    cost = Cost(gradients=4)
    affine = True
    plays: tuple[Play, ...] = ("simultaneous",)

    def init(self, point: Point) -> RuleState:
        """No state."""
        return {}

    def direction(
        self, oracle: GameOracle, players: Sequence[str], state: RuleState
    ) -> tuple[dict[str, Vector], RuleState]:
        """The gradients at the look-ahead, which the optimizer remembers."""
        here = {player: oracle.gradient(player) for player in players}
        there = oracle.ahead(here, remember=True)
        return {player: oracle.gradient(player, at=there) for player in players}, state

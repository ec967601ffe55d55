"""Derivatives of one micro-batch by the structure L(D(G(z))): direction and cross term share one reverse pass."""

from __future__ import annotations

from typing import final

from lightning_lead._types import Point
from lightning_lead.calculus._chain.difference import discriminator_difference, generator_difference
from lightning_lead.calculus._chain.exact import discriminator_direction, generator_direction
from lightning_lead.calculus._chain.links import (
    DISCRIMINATOR,
    GENERATOR,
    Chain,
    Contexts,
    discriminator_gradient,
    generator_gradient,
)
from lightning_lead.calculus._terms import CrossTerm, Direction

__all__ = ["ChainDerivatives"]


@final
class ChainDerivatives:
    """The backend of a micro-batch whose losses have the structure, for whatever the structure allows."""

    def __init__(self, chain: Chain, contexts: Contexts) -> None:
        self._chain, self._contexts = chain, contexts

    def serves(self, cross: CrossTerm | None) -> bool:
        """True if the structure allows this direction: a plain gradient, or one with a cross term."""
        return self._chain.linked if cross is None else self._chain.structure.chained

    def direction(
        self, player: str, point: Point, cross: CrossTerm | None, *, replay: bool, current: bool = False
    ) -> Direction:
        """g_i + weight·c_i, link by link."""
        chain, contexts, discriminates = self._chain, self._contexts, player == DISCRIMINATOR
        own = tuple(p.detach().requires_grad_() for p in point[player])
        other = tuple(p.detach() for p in point[GENERATOR if discriminates else DISCRIMINATOR])
        kept = chain.kept() if current and not discriminates else None
        part = chain.part(cross.fraction) if cross is not None and cross.fraction < 1 else None
        if cross is None and discriminates:
            hands_over = current and chain.joint
            found = discriminator_gradient(chain, own, other, contexts, replay=replay, hands_over=hands_over)
        elif cross is None:
            found = generator_gradient(chain, own, other, contexts, replay=replay, kept=kept)
        elif cross.form == "difference" and discriminates:
            found = discriminator_difference(chain, own, other, cross, contexts, replay=replay, part=part)
        elif cross.form == "difference":
            found = generator_difference(chain, own, other, cross, contexts, replay=replay, part=part, kept=kept)
        else:
            exact = discriminator_direction if discriminates else generator_direction
            found = exact(chain, own, other, cross, contexts, replay=replay, part=part)
        return Direction(found.direction, found.loss, found.direction if cross is None else None, None)

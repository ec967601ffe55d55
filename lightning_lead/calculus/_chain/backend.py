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
    Query,
    discriminator_gradient,
    generator_gradient,
)
from lightning_lead.calculus._chain.piecewise import StructureChanged
from lightning_lead.calculus._players import leaves_of
from lightning_lead.calculus._terms import Contexts, CrossTerm, Direction

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
        chain, discriminates = self._chain, player == DISCRIMINATOR
        query = Query(
            player,
            chain,
            part=chain.part(cross.fraction) if cross is not None and cross.fraction < 1 else None,
            own=leaves_of(point[player]),
            other=leaves_of(point[GENERATOR if discriminates else DISCRIMINATOR], requires_grad=False),
            contexts=self._contexts,
            replay=replay,
            # a plain gradient shares fakes only where both players evaluate before either moves
            hands_over=chain.shares and not replay and (cross is not None or (current and chain.joint)),
            kept=chain.kept() if current and not discriminates else None,
        )
        if cross is None:
            return discriminator_gradient(query) if discriminates else generator_gradient(query)
        if cross.form == "difference":
            return (discriminator_difference if discriminates else generator_difference)(query, cross)
        exact = discriminator_direction if discriminates else generator_direction
        try:
            return exact(query, cross)
        except StructureChanged as changed:
            chain.use_duals(str(changed))
            if query.part is not None:
                query.part.use_duals(str(changed))
            return exact(query._replace(replay=True), cross)  # buffers have moved in the attempt

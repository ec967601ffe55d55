"""Derivatives of one micro-batch by the structure, u = G(z), L_i = ℓ_i(D(u)), and the exact cross term link by link.

Plain gradients are in `_chain.links`, the difference form is in `_chain.difference`. The exact cross term:

    the discriminator's:   c_D = ∓∇_D ψ,   ψ = d/dε ℓ(D(u + εt)),       t = J_G Δ_G, one forward-mode pass through G
    the generator's:       c_G = ∓J_Gᵀ ∂_u ψ,   ψ = d/dε ℓ(D_{θ+εΔ}(u)), added to ∂_u L_G before the one vjp through G

In the opponent form ℓ is the opponent's loss and the sign is minus; in the own form ℓ is the own loss and the sign is
plus. G is never differentiated twice, and there is at most one derivative through G. Direction and cross term share one
reverse pass: d is the gradient of the single scalar L_i + a·(∓ψ).

A penalty p that depends on u enters ψ where ℓ is the discriminator's: d/dε p(u + εt) = ⟨∂_u p, t⟩ and
d/dε p_{θ+εΔ}(u) = ⟨∇_D p, Δ⟩. Both are reverse passes through D alone, since p holds a reverse pass itself. If D is
piecewise linear, p does not enter: it is a function of slopes that do not change with u.

Cost on top of plain training, with F = one forward pass: the discriminator pays 2F of G for t and 3F of D, the
generator 4F of D. In dual arithmetic (three products for one) none of it can be left out for a general network; a D
that is piecewise linear sample by sample needs 1F and 2F, see `calculus._chain.piecewise`.

Reference: Askari Hemmat et al., "LEAD: Min-Max Optimization from a Physical Perspective", TMLR 2023, Algorithm 1;
Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 1994.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from lightning_lead._errors import DifferentiationError
from lightning_lead._types import Point, Vector
from lightning_lead.calculus._chain.difference import discriminator_difference, generator_difference
from lightning_lead.calculus._chain.dual import dual_vector, lean_duals, make_dual, split_dual
from lightning_lead.calculus._chain.links import (
    DISCRIMINATOR,
    GENERATOR,
    Chain,
    Cotangent,
    PenaltyParts,
    Query,
    corrected,
    cotangent_at,
    cotangent_of,
    discriminator_gradient,
    discriminator_loss,
    generator_gradient,
    penalised,
    plus,
    pull_back,
)
from lightning_lead.calculus._chain.piecewise import (
    StructureChanged,
    check_loss,
    logits_along_fakes,
    logits_along_parameters,
)
from lightning_lead.calculus._graph import LossGraph
from lightning_lead.calculus._players import inner, leaves_of
from lightning_lead.calculus._terms import Contexts, CrossTerm, Direction
from lightning_lead.calculus._third import refuse_wrong_norms

__all__ = ["ChainDerivatives"]


@final
class ChainDerivatives:
    """The backend of a micro-batch whose losses have the structure, for whatever the structure allows."""

    def __init__(self, chain: Chain, contexts: Contexts, graphs: dict[str, LossGraph]) -> None:
        self._chain, self._contexts, self._graphs = chain, contexts, graphs

    def serves(self, player: str, cross: CrossTerm | None) -> bool:
        """True if the structure allows this direction: a plain gradient, or one with a cross term.

        Cotangents are taken by `autograd.grad`, so they want a loss of which it is known that no checkpoint forbids it.
        """
        if cross is None and not self._chain.joint:
            return self._chain.linked
        known = player in self._graphs and not self._graphs[player].by_backward
        return known and (self._chain.linked if cross is None else self._chain.structure.chained)

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
            graphs=self._graphs,
            replay=replay,
            # a plain gradient shares fakes only where both players evaluate before either moves; with a q, which is of
            # the weights and not of the fakes, the generator makes its own
            hands_over=chain.shares
            and not (replay or chain.penalises_generator)
            and (cross is not None or (current and chain.joint)),
            kept=chain.kept() if current and not discriminates else None,
        )
        if cross is None:
            return discriminator_gradient(query) if discriminates else generator_gradient(query)
        if cross.form == "difference":
            return (discriminator_difference if discriminates else generator_difference)(query, cross)
        exact = _discriminator_direction if discriminates else _generator_direction
        try:
            return exact(query, cross)
        except StructureChanged as changed:
            chain.use_duals(str(changed))
            if query.part is not None:
                query.part.use_duals(str(changed))
            return exact(query._replace(replay=True), cross)  # buffers have moved in the attempt


def _discriminator_direction(query: Query, cross: CrossTerm) -> Direction:
    """g_D + weight·c_D; c_D of the leading samples alone if there is a part."""
    chain, contexts, replay = query.chain, query.contexts, query.replay
    with torch.enable_grad(), contexts.swap(query.point):
        whole = None  # the loss of all samples, where ψ is of a part
        if query.part is not None:
            with chain.evaluation(replay=replay):
                whole = discriminator_loss(chain)
            chain, replay = query.part, True
        with chain.evaluation(replay=replay):
            # u and t = J_G Δ_G; dual numbers exist inside of `lean_duals` alone
            with torch.no_grad(), lean_duals():
                moving = dual_vector(query.other, cross.displacement)
                with contexts.swap({GENERATOR: moving}):
                    fakes, tangent = split_dual(chain.fakes())
            if tangent is None:
                raise _no_interaction(GENERATOR)
            # the generator moves along Δ_G in the loss as well, where that depends on its weights directly
            with (
                _logits_along_fakes(chain, fakes, tangent) as logits,
                contexts.swap({GENERATOR: dual_vector(query.other, cross.displacement)}),
            ):
                # a loss in which reals and fakes meet is evaluated once, together with its slope
                meet = cross.form == "own" and not chain.separable and whole is None
                of = DISCRIMINATOR if cross.form == "own" else GENERATOR
                loss, slope = split_dual(chain.loss(of, logits, with_reals=meet))
                if chain.structure.piecewise_linear:
                    check_loss((loss, slope), logits)
                primal = split_dual(logits)[0]
            if slope is None or not slope.requires_grad:
                raise _no_interaction(DISCRIMINATOR)
            if whole is None and not meet:
                loss = chain.loss(DISCRIMINATOR, primal, with_reals=True)
                if chain.structure.piecewise_linear:
                    check_loss((loss,), logits)
            # p enters the loss of all samples, and ψ through d/dε p(u + εt) = ⟨∂_u p, t⟩
            enters = cross.form == "own" and _penalty_enters(chain)
            leaf = fakes.detach().requires_grad_(enters)
            penalty = chain.penalty(leaf) if enters or whole is None else PenaltyParts(None, None)
            if enters and penalty.of_fakes is not None:
                slope = slope + _along(penalty.of_fakes, (leaf,), (tangent,), contexts)
            loss = plus(loss, penalty.whole) if whole is None else whole
        return Direction(query.gradient(loss + _signed(cross) * slope), loss.detach())


def _generator_direction(query: Query, cross: CrossTerm) -> Direction:
    """g_G + weight·c_G; c_G of the leading samples alone if there is a part."""
    chain, part, contexts = query.chain, query.part, query.contexts
    with torch.enable_grad(), contexts.swap(query.point):
        with chain.evaluation(replay=query.replay):
            fakes = chain.fakes()
            penalty = chain.generator_penalty()  # before D, where the structure may turn out to have changed
            if part is None:
                cotangent, loss = _cotangent(query, chain, fakes, cross, with_gradient=True)
            else:
                cotangent, loss = cotangent_of(chain, fakes, query.own, contexts)
            cotangent, loss = penalised(cotangent, loss, penalty, query.own, contexts)
        if part is not None:
            few = part.first_of(fakes)
            with part.evaluation(replay=True):
                term, _ = _cotangent(query, part, few, cross, with_gradient=False)
            nothing = Cotangent(torch.zeros_like(few), (None,) * len(query.own))
            cotangent = corrected(cotangent, 1.0, term, nothing)
        with contexts.full_precision():
            return Direction(pull_back(fakes, query.own, cotangent), loss)


def _cotangent(
    query: Query, chain: Chain, fakes: Tensor, cross: CrossTerm, *, with_gradient: bool
) -> tuple[Cotangent, Tensor]:
    """The cotangent of the weighted cross term, plus that of ℓ_G on request; and ℓ_G."""
    contexts, own_form = query.contexts, cross.form == "own"
    leaf = fakes.detach().requires_grad_()
    with _logits_along_parameters(chain, leaf, query.other, cross.displacement, contexts) as logits:
        # before D(x), which ψ of the discriminator's loss may need: ℓ_G may use what D has kept of its forward on fakes
        loss = None if own_form else chain.loss(GENERATOR, split_dual(logits)[0], with_reals=False)
        value, slope = split_dual(chain.loss(GENERATOR if own_form else DISCRIMINATOR, logits, with_reals=False))
        if chain.structure.piecewise_linear:
            check_loss((value, slope, loss), logits)
        loss = value if loss is None else split_dual(loss)[0]
    if slope is None or not slope.requires_grad:
        raise _no_interaction(DISCRIMINATOR)
    if not own_form and _penalty_enters(chain):
        # d/dε p_{θ+εΔ}(u) = ⟨∇_D p, Δ⟩, which needs parameters that require gradients
        moving = leaves_of(query.other)
        with contexts.swap({DISCRIMINATOR: moving}):
            penalty = chain.penalty(leaf, of_fakes=True).of_fakes
        if penalty is not None:
            slope = slope + _along(penalty, moving, cross.displacement, contexts)
    correction = _signed(cross) * slope
    total = loss + correction if with_gradient else correction
    return cotangent_at(total, leaf, query.own, contexts), loss.detach()


def _penalty_enters(chain: Chain) -> bool:
    """True if the penalty has a part in the cross terms of the discriminator's loss."""
    return chain.penalty_sees_fakes and not chain.structure.piecewise_linear


def _along(value: Tensor, point: Vector, tangent: Vector, contexts: Contexts) -> Tensor:
    """⟨∇ value, tangent⟩, differentiable; zero where the value does not depend on the point, as ‖∇D‖ of a linear D."""
    if not value.requires_grad:
        return value.new_zeros(())
    refuse_wrong_norms(value, "the penalty", point)
    with contexts.full_precision():
        grads = torch.autograd.grad(value, point, create_graph=True, allow_unused=True)
        reached = [(g, t) for g, t in zip(grads, tangent, strict=True) if g is not None]
        return inner(*zip(*reached, strict=True)) if reached else value.new_zeros(())


def _signed(cross: CrossTerm) -> float:
    return cross.weight if cross.form == "own" else -cross.weight


@contextmanager
def _logits_along_fakes(chain: Chain, fakes: Tensor, tangent: Tensor) -> Iterator[Tensor]:
    """D(u + εt), a dual number, while its level is open."""
    if chain.structure.piecewise_linear:
        logits, slopes = logits_along_fakes(chain.fake_logits, fakes, tangent, chain.known_calls)
        with lean_duals():
            yield logits if slopes is None else make_dual(logits, slopes)
    else:
        with lean_duals():
            yield chain.fake_logits(make_dual(fakes, tangent))


@contextmanager
def _logits_along_parameters(
    chain: Chain, leaf: Tensor, parameters: Vector, displacement: Vector, contexts: Contexts
) -> Iterator[Tensor]:
    """D_{θ+εΔ}(u), a dual number, while its level is open."""
    if chain.structure.piecewise_linear:
        logits, slopes = logits_along_parameters(
            chain.fake_logits,
            leaf,
            parameters,
            displacement,
            lambda vector: contexts.swap({DISCRIMINATOR: vector}),
            chain.known_calls,
        )
        with lean_duals(), contexts.swap({DISCRIMINATOR: dual_vector(parameters, displacement)}):
            yield logits if slopes is None else make_dual(logits, slopes)
    else:
        with lean_duals(), contexts.swap({DISCRIMINATOR: dual_vector(parameters, displacement)}):
            # a view, because some tools refuse a leaf that is handed to a module and differentiated by
            yield chain.fake_logits(leaf.view_as(leaf))


def _no_interaction(player: str) -> DifferentiationError:
    return DifferentiationError(
        f"Cannot form the cross term because the losses do not depend on {player!r}; "
        "the players must meet in one loss (is an output detached, or an opponent left out of the loss?)"
    )

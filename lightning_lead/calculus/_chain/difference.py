"""The difference form of the cross term, link by link.

    the discriminator's:   c_D = ∇_D [ℓ_D(D(u)) + p(u) − ℓ_D(D(u⁻)) − p(u⁻)],   u⁻ = G(z) at θ_G − Δ_G
    the generator's:       c_G = J_Gᵀ ∂_u [ℓ_G(D(u)) − ℓ_G(D⁻(u))],   D⁻ at θ_D − Δ_D

Terms without u cancel, so D is evaluated on the reals once, and the generator's fakes are computed once. If the
generator's turn uses the latents of the discriminator's turn, it takes over those fakes and ∂_u ℓ_G(D⁻(u)). That was
taken while D still was D⁻, so the generator's correction costs nothing in its own turn.

The two gradients agree in most of their bits, so both are computed in float32: without autocast, without TF32.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from lightning_lead.calculus._chain.dual import uncompiled
from lightning_lead.calculus._chain.links import (
    DISCRIMINATOR,
    GENERATOR,
    Query,
    corrected,
    cotangent_of,
    discriminator_loss,
    penalised,
    plus,
    pull_back,
    shared_logits,
)
from lightning_lead.calculus._players import leaves_of, moved_back
from lightning_lead.calculus._terms import CrossTerm, Direction

__all__ = ["discriminator_difference", "generator_difference"]


def discriminator_difference(query: Query, cross: CrossTerm) -> Direction:
    """g_D + weight·c_D; c_D of the leading samples alone if there is a part."""
    chain, part, contexts, swap = query.chain, query.part, query.contexts, query.contexts.swap
    compared = chain if part is None else part
    leaves = leaves_of(query.other, requires_grad=query.hands_over)
    # compiled code allows one reverse pass, and fakes that are handed over take two through the discriminator
    mode = uncompiled() if query.hands_over else nullcontext()
    with torch.enable_grad(), contexts.full_float32(), swap({DISCRIMINATOR: query.own}), mode:
        with chain.evaluation(replay=query.replay), swap({GENERATOR: leaves}):
            fakes, logits = shared_logits(chain, leaves, contexts)
            loss, penalty = chain.loss(DISCRIMINATOR, logits, with_reals=True), chain.penalty(fakes).whole
            if part is None:
                now = chain.loss(DISCRIMINATOR, logits, with_reals=False) if chain.separable else loss
                now = plus(now, penalty) if chain.penalty_sees_fakes else now
            loss = plus(loss, penalty)
        # what is the same in both losses is left out of both
        terms = {"with_reals": not compared.separable, "with_penalty": compared.penalty_sees_fakes}
        if part is not None:
            with part.evaluation(replay=True), swap({GENERATOR: query.other}):
                now = discriminator_loss(part, **terms)
        with compared.evaluation(replay=True), swap({GENERATOR: moved_back(query.other, cross.displacement)}):
            before = discriminator_loss(compared, **terms)
        return Direction(query.gradient(loss + cross.weight * (now - before)), loss.detach())


def generator_difference(query: Query, cross: CrossTerm) -> Direction:
    """g_G + weight·c_G; with kept fakes, those of the discriminator's turn."""
    chain, part, kept, contexts = query.chain, query.part, query.kept, query.contexts
    own = query.own
    with torch.enable_grad(), contexts.full_float32(), contexts.swap(query.point):
        if kept is None:
            with chain.evaluation(replay=query.replay):
                fakes = chain.fakes()
                now, loss = cotangent_of(chain, fakes, query.own, contexts)
                total, loss = penalised(now, loss, chain.generator_penalty(), query.own, contexts)
        elif chain.joint:
            fakes, own, now, loss = kept
            total = now
        else:
            # the discriminator has moved since: what was kept is its cotangent of before, of all samples
            with chain.evaluation(replay=query.replay), chain.discriminator_replay():
                now, loss = cotangent_of(chain, kept.fakes, query.own, contexts)
            cotangent = corrected(now, cross.weight, now, kept.cotangent)
            return Direction(pull_back(kept.fakes, kept.parameters, cotangent), loss)
        compared = chain if part is None else part
        few, of_few = compared.first_of(fakes), now
        if part is not None:
            with part.evaluation(replay=True), part.discriminator_replay():
                of_few, _ = cotangent_of(part, few, query.own, contexts)
        earlier = {DISCRIMINATOR: moved_back(query.other, cross.displacement)}
        with compared.evaluation(replay=True), compared.discriminator_replay(), contexts.swap(earlier):
            before, _ = cotangent_of(compared, few, query.own, contexts)
        return Direction(pull_back(fakes, own, corrected(total, cross.weight, of_few, before)), loss)

"""The difference form of the cross term, link by link.

    the discriminator's:   c_D = ∇_D [ℓ_D(D(u)) + p(u) − ℓ_D(D(u⁻)) − p(u⁻)],   u⁻ = G(z) at θ_G − Δ_G
    the generator's:       c_G = J_Gᵀ ∂_u [ℓ_G(D(u)) − ℓ_G(D⁻(u))],   D⁻ at θ_D − Δ_D

What does not depend on u cancels, so D sees the reals once, and the generator's fakes are computed once. Where the
generator's turn uses the latents of the discriminator's turn, it takes over those fakes and ∂_u ℓ_G(D⁻(u)), which was
taken while D still was D⁻: the generator's correction then costs nothing in its own turn.

The two gradients agree in most of their bits, so both are computed in float32: without autocast, without TF32.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from lightning_lead._types import Vector
from lightning_lead.calculus._chain.dual import uncompiled
from lightning_lead.calculus._chain.links import (
    DISCRIMINATOR,
    GENERATOR,
    Chain,
    ChainDirection,
    Contexts,
    SharedFakes,
    cotangent_of,
    discriminator_loss,
    leaves_of,
    logits_and_keep,
    loss_of,
    plus,
    pull_back,
)
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.calculus._terms import CrossTerm
from lightning_lead.calculus.derivatives import gradient

__all__ = ["discriminator_difference", "generator_difference"]


def discriminator_difference(
    chain: Chain,
    own: Vector,
    other: Vector,
    cross: CrossTerm,
    contexts: Contexts,
    *,
    replay: bool,
    part: Chain | None = None,
) -> ChainDirection:
    """g_D + weight·c_D; c_D of the leading samples alone if there is a part."""
    player, compared, swap = DISCRIMINATOR, part if part is not None else chain, contexts.swap
    leaves = leaves_of(other, requires_grad=chain.shares and not replay)
    # compiled code allows one reverse pass, and fakes that are handed over take two through the discriminator
    mode = uncompiled() if leaves[0].requires_grad else nullcontext()
    with torch.enable_grad(), contexts.full_precision(), full_float32(), swap({player: own}), mode:
        with chain.evaluation(replay=replay), swap({GENERATOR: leaves}):
            fakes, logits = logits_and_keep(chain, leaves, contexts)
            loss, penalty = chain.loss(player, logits, with_reals=True), chain.penalty(fakes)
            if part is None:
                now = chain.loss(player, logits, with_reals=False) if chain.separable else loss
                now = plus(now, penalty) if chain.penalty_sees_fakes else now
            loss = plus(loss, penalty)
        # what is the same in both losses is left out of both
        what = {"with_reals": not compared.separable, "with_penalty": compared.penalty_sees_fakes}
        if part is not None:
            with part.evaluation(replay=True), swap({GENERATOR: other}):
                now = discriminator_loss(part, **what)
        with compared.evaluation(replay=True), swap({GENERATOR: _earlier(other, cross.displacement)}):
            before = discriminator_loss(compared, **what)
        total = loss + cross.weight * (now - before)
        return ChainDirection(gradient(total, own, label=loss_of(player)), loss.detach())


def generator_difference(
    chain: Chain,
    own: Vector,
    other: Vector,
    cross: CrossTerm,
    contexts: Contexts,
    *,
    replay: bool,
    part: Chain | None = None,
    kept: SharedFakes | None = None,
) -> ChainDirection:
    """g_G + weight·c_G; with kept fakes, those of the discriminator's turn."""
    compared, swap = part if part is not None else chain, contexts.swap
    earlier = {DISCRIMINATOR: _earlier(other, cross.displacement)}
    with torch.enable_grad(), contexts.full_precision(), full_float32(), swap({GENERATOR: own, DISCRIMINATOR: other}):
        if kept is None:
            with chain.evaluation(replay=replay):
                fakes = chain.fakes()
                now, loss = cotangent_of(chain, fakes, contexts)
        else:
            fakes, own = kept.fakes, kept.parameters
            now, loss = kept.cotangent, kept.loss
        if kept is not None and not chain.joint:
            # the discriminator has moved since: what was kept is its cotangent of before, of all samples
            with chain.evaluation(replay=replay), chain.discriminator_again():
                now, loss = cotangent_of(chain, fakes, contexts)
            return ChainDirection(pull_back(fakes, own, now + cross.weight * (now - kept.cotangent)), loss)
        few, here = compared.first_of(fakes), now
        if part is not None:
            with part.evaluation(replay=True), part.discriminator_again():
                here, _ = cotangent_of(part, few, contexts)
        with compared.evaluation(replay=True), compared.discriminator_again(), swap(earlier):
            before, _ = cotangent_of(compared, few, contexts)
        cotangent = now.clone()
        cotangent[: len(few)] += cross.weight * (here - before)
        return ChainDirection(pull_back(fakes, own, cotangent), loss)


def _earlier(vector: Vector, displacement: Vector) -> Vector:
    return tuple((p - d.to(p.dtype)).detach() for p, d in zip(vector, displacement, strict=True))

"""The difference form of the cross term in a game with the structure of `calculus.chain`.

    the judge's:   c_D = ∇_D [ℓ_D(D(u)) + p(u) − ℓ_D(D(u⁻)) − p(u⁻)],   u⁻ made by G at θ_G − Δ_G
    the maker's:   c_G = J_Gᵀ ∂_u [ℓ_G(D(u)) − ℓ_G(D⁻(u))],   D⁻ at θ_D − Δ_D

What does not depend on u cancels, so reals are looked at once, and the maker's fakes are made once. Where the maker
looks at the latents of the judge's step, the fakes of that step serve it, and ∂_u ℓ_G(D⁻(u)) is taken there, where D
still is D⁻: the maker's correction then costs nothing in its own step.

The two gradients agree in most of their bits, so both are computed in float32: without autocast, without TF32.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from lightning_lead._typing import Vector
from lightning_lead.calculus.chain import (
    Chain,
    ChainDirection,
    Context,
    Made,
    Place,
    judge_and_keep,
    judge_loss,
    leaves_of,
    loss_of,
    plus,
    pull_back,
    push_of,
)
from lightning_lead.calculus.derivatives import gradient
from lightning_lead.calculus.dual import uncompiled
from lightning_lead.calculus.float32 import full_float32

__all__ = ["judge_difference", "maker_difference"]


def judge_difference(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    displacement: Vector,
    weight: float,
    place: Place,
    full_precision: Context,
    replay: bool,
    part: Chain | None = None,
) -> ChainDirection:
    """g_D + weight·c_D in the difference form; arguments as in `judge_direction`."""
    player, compared = chain.judge, part if part is not None else chain
    leaves = leaves_of(other, hands_on=chain.shares and not replay)
    # compiled code allows one reverse pass, and fakes that are handed on take two through the judge
    mode = uncompiled() if leaves[0].requires_grad else nullcontext()
    with torch.enable_grad(), full_precision(), full_float32(), place({player: own}), mode:
        with chain.look(replay=replay), place({chain.maker: leaves}):
            made, judged = judge_and_keep(chain, leaves, full_precision)
            loss, penalty = chain.loss(player, judged, with_data=True), chain.penalty(made)
            if part is None:
                now = chain.loss(player, judged, with_data=False) if chain.separable else loss
                now = plus(now, penalty) if chain.penalised_by_made else now
            loss = plus(loss, penalty)
        what = {"with_data": not compared.separable, "with_penalty": compared.penalised_by_made}
        if part is not None:
            with part.look(replay=True), place({part.maker: other}):
                now = judge_loss(part, **what)
        with compared.look(replay=True), place({chain.maker: _earlier(other, displacement)}):
            before = judge_loss(compared, **what)
        return ChainDirection(gradient(loss + weight * (now - before), own, label=loss_of(player)), loss.detach())


def maker_difference(
    chain: Chain,
    own: Vector,
    other: Vector,
    *,
    displacement: Vector,
    weight: float,
    place: Place,
    full_precision: Context,
    replay: bool,
    part: Chain | None = None,
    kept: Made | None = None,
) -> ChainDirection:
    """g_G + weight·c_G in the difference form; arguments as in `maker_gradient` and `judge_direction`."""
    compared = part if part is not None else chain
    with torch.enable_grad(), full_precision(), full_float32(), place({chain.maker: own, chain.judge: other}):
        if kept is None:
            with chain.look(replay=replay):
                made = chain.make()
                now, loss = push_of(chain, made, full_precision)
        else:
            made, own = kept.made, kept.parameters
            now, loss = kept.push, kept.loss
        if kept is not None and not chain.joint:  # the judge has moved since; its old push is there, of all samples
            with chain.look(replay=replay), chain.judge_again():
                now, loss = push_of(chain, made, full_precision)
            return ChainDirection(pull_back(made, own, now + weight * (now - kept.push)), loss)
        few, here = compared.among(made), now
        if part is not None:
            with part.look(replay=True), part.judge_again():
                here, _ = push_of(part, few, full_precision)
        with compared.look(replay=True), compared.judge_again(), place({chain.judge: _earlier(other, displacement)}):
            before, _ = push_of(compared, few, full_precision)
        pushed = now.clone()
        pushed[: len(few)] += weight * (here - before)
        return ChainDirection(pull_back(made, own, pushed), loss)


def _earlier(vector: Vector, displacement: Vector) -> Vector:
    return tuple((p - d.to(p.dtype)).detach() for p, d in zip(vector, displacement, strict=True))

"""Which structure the losses of a GAN have: fast and general derivatives are compared on a few samples.

What is found decides how derivatives are computed, never what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_lead._errors import first_line
from lightning_lead._typing import Point
from lightning_lead.calculus.chain import Structure
from lightning_lead.calculus.float32 import full_float32
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.piecewise_check import why_not_piecewise_linear
from lightning_lead.calculus.placement import Placement
from lightning_lead.calculus.players import norm, weighted_sum
from lightning_lead.gan.batch import GANBatch
from lightning_lead.gan.evaluation import GANEvaluation
from lightning_lead.probe import made_up_cross
from lightning_lead.rules.base import AbstractGameRule

if TYPE_CHECKING:
    from lightning_lead.gan import LeadGANModule

__all__ = ["find_structure"]


def find_structure(
    module: LeadGANModule, batch: GANBatch, live: Mapping[str, Sequence[Tensor]], seed: int
) -> Structure:
    """What the losses on a few samples are made of, as far as the rule of the game has use for it.

    Args:
        module: of which the losses are not overridden as a whole.
        batch: a few samples.
        live: name -> the players' parameters.
        seed: of everything random.
    """
    rule, hold = module.game.rule, Placement(module, live).hold
    shared = module.game.play == "simultaneous" and not rule.displaces  # both players look at the same fakes
    if not (rule.second_order or rule.revisits or shared):
        return Structure("neither rule nor play has use for it", None)

    def evaluation(structure: Structure) -> GANEvaluation:
        return GANEvaluation(module, batch, seed, repeated=True, structure=structure)

    def oracle(structure: Structure) -> GameOracle:
        return GameOracle(
            {player: tuple(params) for player, params in live.items()},
            [evaluation(structure)],
            place=hold,
            full_precision=module._full_precision,
            inspect=False,
        )

    made_of_parts = evaluation(Structure(None, "not yet known"))
    # TF32 puts noise into what is compared: a structure that is there could be missed, at several times the price
    with module._full_precision(), full_float32():
        chained, general = oracle(Structure(None, "not yet known")), oracle(Structure("for comparison", None))
        if reason := _looks_past_what_is_made(made_of_parts, live, hold) or _disagreement(chained, general, rule):
            return Structure(reason, None)
        if not rule.second_order:
            return Structure(None, "nothing is differentiated twice")
        if not made_of_parts.separable:
            return Structure(None, "the objective may let reals and fakes meet")
        look = partial(made_of_parts.look, replay=True)
        with torch.no_grad(), look():
            fakes = made_of_parts.make()
        judge = made_of_parts.judge
        parameters = tuple(p.detach() for p in live[judge])
        reason = _looks_past_logits(made_of_parts, fakes, live, hold) or why_not_piecewise_linear(
            made_of_parts.judge_made, fakes, parameters, lambda vector: hold({judge: vector}), look
        )
        return Structure(None, reason or _disagreement(oracle(Structure(None, None)), general, rule))


def _looks_past_what_is_made(
    chain: GANEvaluation, live: Mapping[str, Sequence[Tensor]], hold: Callable[[Point], AbstractContextManager[object]]
) -> str | None:
    """Whether the maker's loss depends on its parameters otherwise than by u.

    A mistake in a user's network shows here for the first time, under its own name.
    """
    own = tuple(p.detach().requires_grad_() for p in live[chain.maker])
    with torch.enable_grad(), chain.look(replay=True), hold({chain.maker: own}):
        loss = chain.loss(chain.maker, chain.judge_made(chain.make().detach()), with_data=False)
        past = loss.requires_grad and torch.autograd.grad(loss, own, allow_unused=True)
    if past and any(g is not None for g in past):
        return f"the loss of {chain.maker} looks past D(G(z)): the players meet outside of it"
    return None


def _looks_past_logits(
    chain: GANEvaluation,
    made: Tensor,
    live: Mapping[str, Sequence[Tensor]],
    hold: Callable[[Point], AbstractContextManager[object]],
) -> str | None:
    """Whether a loss of fakes depends on u or on the judge otherwise than by its logits, as features that it kept."""
    own = tuple(p.detach().requires_grad_() for p in live[chain.judge])
    leaf = made.detach().requires_grad_()
    with torch.enable_grad(), chain.look(replay=True), hold({chain.judge: own}):
        judged = chain.judge_made(leaf.view_as(leaf)).detach()
        for player in (chain.maker, chain.judge):
            if chain.loss(player, judged, with_data=False).requires_grad:
                return f"the loss of {player} looks past the discriminator's logits"
    return None


def _disagreement(chained: GameOracle, general: GameOracle, rule: AbstractGameRule) -> str | None:
    """Why a cross term by structure cannot be trusted here, or None: both ways are tried on a made-up displacement."""
    told = False
    for player in general.names:
        # a large weight, so that neither gradient nor cross term hides behind the other
        cross = made_up_cross(general, player, rule, weight=1e3)
        try:
            fast = chained.gradient(player, at=chained.point, cross=cross)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the attempt to find a shortcut must not end a fit
            return f"forward-mode derivatives are missing ({first_line(error)})"
        try:
            whole = general.gradient(player, at=general.point, cross=cross)
        except RuntimeError:
            told = True
            continue  # nothing to compare with: the general way fails on these networks
        size, off = norm(whole), norm(weighted_sum([(1.0, fast), (-1.0, whole)]))
        if not off <= 10 * torch.finfo(size.dtype).eps ** 0.5 * size:
            return f"the direction of {player} differs by {float(off / size):.1e}: the players meet outside of D(G(z))"
        told |= bool(size > 0)  # a saturated loss, as hinge on a few samples, tells nothing
    return None if told else "no derivative tells anything"

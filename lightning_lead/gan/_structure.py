"""The structure of a GAN's losses, found on a few samples: fast and general derivatives are compared.

It decides how derivatives are computed, never what they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from lightning_lead._errors import first_line
from lightning_lead._lightning import rank_zero_info
from lightning_lead.calculus._chain.links import DISCRIMINATOR, GENERATOR, Structure
from lightning_lead.calculus._chain.piecewise_check import why_not_piecewise_linear
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.calculus._players import norm, weighted_sum
from lightning_lead.calculus._terms import Contexts
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.engine._probe import made_up_cross
from lightning_lead.gan._chain_losses import GANLosses
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["MakeLosses", "PROBED", "assumed", "audited", "find_structure", "of_both", "report_structure"]

PROBED = 16
"""Samples on which the structure is found, before the first step."""

_UNTOLD = ("no derivative tells anything", "the losses are not finite")
"""Reasons that lie in the samples and not in the game."""

_log = logging.getLogger("lightning_lead.gan")  # the name that docs/cost.md gives


class MakeLosses(Protocol):
    """Makes the losses of a few samples under a structure that is assumed."""

    def __call__(self, structure: Structure, *, repeated: bool = True) -> GANLosses:
        """Make them; each has its own record of replays."""
        ...


def find_structure(
    make_losses: MakeLosses,
    live: Mapping[str, Sequence[Tensor]],
    contexts: Contexts,
    rule: AbstractGameRule,
) -> Structure:
    """Find what the losses are made of; a rule that evaluates them once has no use for it, and does not ask."""
    needs = rule.needs
    unknown = Structure(None, "not yet known")
    chain = make_losses(unknown)

    def oracle(structure: Structure) -> GameOracle:
        point = {player: tuple(params) for player, params in live.items()}
        losses = [make_losses(structure)]
        return GameOracle(point, losses, swap=contexts.swap, full_precision=contexts.full_precision, inspect=False)

    # TF32 puts noise into what is compared: a structure that is there could be missed, at several times the price
    with contexts.full_precision(), full_float32():
        chained, general = oracle(unknown), oracle(Structure("for comparison", None))
        if reason := _generator_bypasses_fakes(chain, live, contexts) or _disagreement(chained, general, rule):
            return Structure(reason, None)
        if not needs.second_order:
            return Structure(None, "nothing is differentiated twice")
        if reason := chain.why_duals():
            return Structure(None, reason)
        replay = partial(chain.evaluation, replay=True)
        with torch.no_grad(), replay():
            fakes = chain.fakes()
        parameters = tuple(p.detach() for p in live[DISCRIMINATOR])
        reason = _losses_bypass_logits(chain, fakes, live, contexts) or why_not_piecewise_linear(
            chain.fake_logits, fakes, parameters, lambda vector: contexts.swap({DISCRIMINATOR: vector}), replay
        )
        return Structure(None, reason or _disagreement(oracle(Structure(None, None)), general, rule))


def of_both(saved: Structure, found: Structure) -> Structure:
    """Return the structure by which a resumed run goes on: as before, so that it rounds alike, where that is right.

    Args:
        saved: of the run that wrote the checkpoint.
        found: on the first samples after the resume.
    """
    # what assumes less of the losses is right as well
    return saved if _untold(found) or assumed(saved) <= assumed(found) else found


def assumed(structure: Structure) -> int:
    """Count what is taken for granted of the losses: 0, 1 or 2 things."""
    return int(structure.chained) + int(structure.piecewise_linear)


def _untold(found: Structure) -> bool:
    return bool({found.not_chained, found.not_piecewise_linear} & set(_UNTOLD))


def report_structure(found: Structure, rule: AbstractGameRule) -> None:
    """Log how derivatives will be taken, and say on rank 0 where that costs more than it might."""
    _log.debug("Cross term: %s", f"general, because {found.not_chained}" if found.not_chained else "by structure")
    if found.not_chained and rule.needs.uses_opponent and not rule.needs.displaces:
        rank_zero_info(
            f"The derivatives of {rule.name} are taken of the losses as a whole and not by the structure "
            f"of a GAN, which costs more (see docs/cost.md), because {found.not_chained}"
        )
    if found.chained and rule.needs.second_order:
        reason = found.not_piecewise_linear
        _log.debug("Discriminator: %s", f"dual numbers, because {reason}" if reason else "piecewise linear")


def audited(known: Structure, found: Structure, rule: AbstractGameRule, step: int) -> Structure:
    """Return the slower of two findings, and say which it is; a warning where the known one was no longer true.

    A faster one is left aside: what is slower is right as well, and a change of ways changes the rounding.
    """
    if _untold(found):
        return known
    if assumed(known) <= assumed(found):
        _log.debug("Audit at step %d: derivatives by the structure are those of the losses as a whole", step)
        return known
    reason = found.not_chained or found.not_piecewise_linear
    warnings.warn(
        f"The losses have changed in a way that no check of a turn has seen: {reason}. Directions of {rule.name} "
        f"between the audit before and that of step {step} may be off; from here on they are taken "
        f"{'by dual numbers' if found.chained else 'of the losses as a whole'}",
        stacklevel=2,
    )
    return found


def _generator_bypasses_fakes(chain: GANLosses, live: Mapping[str, Sequence[Tensor]], contexts: Contexts) -> str | None:
    """Say that ℓ_G depends on the generator's weights other than through u, or return None.

    A mistake in a user's network shows here for the first time, under its own name.
    """
    own = tuple(p.detach().requires_grad_() for p in live[GENERATOR])
    with torch.enable_grad(), chain.evaluation(replay=True), contexts.swap({GENERATOR: own}):
        loss = chain.loss(GENERATOR, chain.fake_logits(chain.fakes().detach()), with_reals=False)
        past = loss.requires_grad and torch.autograd.grad(loss, own, allow_unused=True)
    if past and any(g is not None for g in past):
        return "the generator's loss depends on its weights other than through D(G(z)): the players meet outside of it"
    return None


def _losses_bypass_logits(
    chain: GANLosses, fakes: Tensor, live: Mapping[str, Sequence[Tensor]], contexts: Contexts
) -> str | None:
    """Say that a loss depends on u or on D other than through D(u), as on features that it kept, or return None."""
    own = tuple(p.detach().requires_grad_() for p in live[DISCRIMINATOR])
    leaf = fakes.detach().requires_grad_()
    with torch.enable_grad(), chain.evaluation(replay=True), contexts.swap({DISCRIMINATOR: own}):
        logits = chain.fake_logits(leaf.view_as(leaf)).detach()
        for player in (GENERATOR, DISCRIMINATOR):
            if chain.loss(player, logits, with_reals=False).requires_grad:
                return f"the {player}'s loss depends on more of the discriminator than its logits"
    return None


def _disagreement(chained: GameOracle, general: GameOracle, rule: AbstractGameRule) -> str | None:
    """Say by how much directions by structure differ from the general ones, or return None."""
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
        if not norm(whole).isfinite():
            return _UNTOLD[1]
        size, off = norm(whole), norm(weighted_sum([(1.0, fast), (-1.0, whole)]))
        if not off <= 10 * torch.finfo(size.dtype).eps ** 0.5 * size:
            return f"the direction of {player} differs by {float(off / size):.1e}: the players meet outside of D(G(z))"
        told |= bool(size > 0)  # a saturated loss, as hinge on a few samples, tells nothing
    return None if told else _UNTOLD[0]

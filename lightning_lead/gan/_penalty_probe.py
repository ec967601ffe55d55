"""The discriminator's penalties before the first step: derivatives that a layer lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_lead._errors import DifferentiationError, HigherDerivativeError, first_line
from lightning_lead.calculus._chain.links import DISCRIMINATOR
from lightning_lead.calculus._players import inner
from lightning_lead.calculus._terms import Contexts
from lightning_lead.calculus._third import wrong_norms
from lightning_lead.engine._probe import suspects
from lightning_lead.gan._chain_losses import GANLosses
from lightning_lead.gan._problem import GANProblem
from lightning_lead.rules.base import RuleNeeds

__all__ = ["probe_penalty"]


def probe_penalty(
    problem: GANProblem,
    losses: GANLosses,
    live: Mapping[str, Sequence[Tensor]],
    contexts: Contexts,
    needs: RuleNeeds,
) -> None:
    """Take every derivative of the penalties that the rule will need, before any weight moves.

    Raises a DifferentiationError where the logits do not depend on the input, or a layer lacks a second derivative; or
    a third one, which the exact cross term of a penalty on fakes needs.
    """
    if not problem.penalties:
        return
    own = tuple(p.detach().requires_grad_() for p in live[DISCRIMINATOR])
    swap = contexts.swap({DISCRIMINATOR: own})
    with losses.evaluation(replay=True), swap, contexts.full_precision(), torch.enable_grad():
        with torch.no_grad():
            fakes = losses.fakes()
        value, entering = losses.penalty(fakes)
        if value is None or not value.requires_grad:
            return  # every slope is constant
        order = "second"
        try:
            # all of the graph, not the paths to the weights alone: see `calculus.derivatives.cross_term`
            value.backward(retain_graph=True)
            if needs.second_order and entering is not None and entering.requires_grad:
                order = "third"
                if wrong := wrong_norms(entering):
                    raise RuntimeError(f"torch's third derivative of {' and '.join(wrong)} is wrong")
                grads = torch.autograd.grad(entering, own, create_graph=True, allow_unused=True)
                field = tuple(g for g in grads if g is not None)
                if (product := inner(field, field)).requires_grad:
                    product.backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            found, otherwise = suspects(problem.discriminator), "leave the penalty out"
            if order == "third":  # torch's batch norm and layer norm have two; instance norm is of the same base
                layers, norms = problem.discriminator.named_modules(), (_NormBase, nn.LayerNorm)
                found += [f"{name} ({type(m).__name__})" for name, m in layers if isinstance(m, norms)]
                otherwise = f"take R1 or ApproximateR1, or {needs.fallback}"
            names = " and ".join(type(penalty).__name__ for penalty in problem.penalties)
            named = f"; look at {', '.join(found)}" if found else ""
            kind = HigherDerivativeError if order == "third" else DifferentiationError  # the second is of every rule
            raise kind(
                f"Cannot take the derivatives of {names} because a layer of the discriminator "
                f"has no {order} derivative{named}. Replace the layer, or {otherwise} "
                f"(got: {first_line(error)})"
            ) from error

"""The discriminator's penalty before the first step: what is no penalty, and derivatives that a layer lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_lead._errors import ConfigurationError, DifferentiationError, HigherDerivativeError, first_line
from lightning_lead.calculus._chain.links import DISCRIMINATOR
from lightning_lead.calculus._players import inner
from lightning_lead.calculus._terms import Contexts
from lightning_lead.calculus._third import wrong_norms
from lightning_lead.engine._probe import suspects
from lightning_lead.gan._chain_losses import GANLosses
from lightning_lead.gan._problem import GANProblem
from lightning_lead.objectives import AbstractPenalty
from lightning_lead.rules.base import RuleNeeds

__all__ = ["check_penalty", "probe_penalty"]


def check_penalty(penalty: Any) -> None:
    """Refuse what is no penalty, with a ConfigurationError."""
    if isinstance(penalty, type):
        raise ConfigurationError(
            "Cannot use a class as a penalty because its weight belongs to an instance; pass "
            f"{penalty.__name__}(...) (got the class {penalty.__name__})"
        )
    if penalty is not None and not isinstance(penalty, AbstractPenalty):
        raise ConfigurationError(
            "Cannot use this object as a penalty because it is no AbstractPenalty; pass R1(weight=10.0), "
            "WGANGP(weight=10.0), a subclass of AbstractPenalty of your own, or None "
            f"(got {penalty!r})"
        )


def probe_penalty(
    problem: GANProblem,
    losses: GANLosses,
    live: Mapping[str, Sequence[Tensor]],
    contexts: Contexts,
    needs: RuleNeeds,
) -> None:
    """Take every derivative of the penalty that the rule will need, before any weight moves.

    Raises a DifferentiationError where the logits do not depend on the input, or a layer lacks a second derivative; or
    a third one, which the exact cross term of a penalty on fakes needs.
    """
    if problem.penalty is None:
        return
    own = tuple(p.detach().requires_grad_() for p in live[DISCRIMINATOR])
    swap = contexts.swap({DISCRIMINATOR: own})
    with losses.evaluation(replay=True), swap, contexts.full_precision(), torch.enable_grad():
        with torch.no_grad():
            fakes = losses.fakes()
        value = losses.penalty(fakes)
        if value is None or not value.requires_grad:
            return  # every slope is constant
        order = "second"
        try:
            # all of the graph, not the paths to the weights alone: see `calculus.derivatives.cross_term`
            value.backward(retain_graph=True)
            if needs.second_order and problem.penalty.looks_at_fakes:
                order = "third"
                if wrong := wrong_norms(value):
                    raise RuntimeError(f"torch's third derivative of {' and '.join(wrong)} is wrong")
                grads = torch.autograd.grad(value, own, create_graph=True, allow_unused=True)
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
                otherwise = f"take R1, or {needs.fallback}"
            named = f"; look at {', '.join(found)}" if found else ""
            kind = HigherDerivativeError if order == "third" else DifferentiationError  # the second is of every rule
            raise kind(
                f"Cannot take the derivatives of {type(problem.penalty).__name__} because a layer of the discriminator "
                f"has no {order} derivative{named}. Replace the layer, or {otherwise} "
                f"(got: {first_line(error)})"
            ) from error

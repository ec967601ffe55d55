"""The discriminator's penalty in a game step: an evaluation that leaves no trace, and a probe before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_lead._errors import ConfigurationError, DifferentiationError, HigherDerivativeError, first_line
from lightning_lead.calculus.dual import uncompiled
from lightning_lead.calculus.noise import frozen_buffers, mix_seed
from lightning_lead.calculus.placement import Placement
from lightning_lead.calculus.players import inner
from lightning_lead.gan.batch import GANBatch, call_network
from lightning_lead.gan.evaluation import GANEvaluation
from lightning_lead.objectives import AbstractPenalty
from lightning_lead.probe import suspects

if TYPE_CHECKING:
    from lightning_lead.gan import LeadGANModule

__all__ = ["check_penalty", "penalty_on", "probe_penalty"]


def check_penalty(penalty: Any) -> None:
    """Refuse what is no penalty.

    Args:
        penalty: an `AbstractPenalty`, or None.

    Raises:
        ConfigurationError: anything else, such as the class instead of an instance.
    """
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


def penalty_on(module: LeadGANModule, batch: GANBatch, fakes: Tensor) -> Tensor | None:
    """The penalty on a micro-batch, of the discriminator as it was in its last forward; None without a penalty.

    Its random numbers depend on the seed of the evaluation alone, not on what was drawn before, so that a replay which
    leaves out a forward draws them again. It is a mean over samples, as the losses are: its gradient is averaged over
    micro-batches and ranks along with theirs, and neither accumulation nor DDP have to know of it.

    Args:
        module: whose penalty.
        batch: the micro-batch.
        fakes: made of its latents.
    """
    if module.penalty is None:
        return None
    noise = module._noise
    drawn = nullcontext() if noise is None else module.private_noise(mix_seed(noise.initial_seed(), 1))
    # an extra evaluation, and compiled code has no second derivative
    with drawn, frozen_buffers(module.discriminator), uncompiled():
        value = module.penalty(
            partial(call_network, module.discriminator),
            batch.real,
            fakes if module.penalty.looks_at_fakes else None,
            labels=batch.labels,
            noise=module._noise,
        )
    if noise is not None and batch.discriminator_moves:
        # for the log, under the seed that repeats and parts share with the first evaluation: that one is kept
        module._penalties.setdefault(noise.initial_seed(), value.detach())
    return value


def probe_penalty(module: LeadGANModule, batch: GANBatch, live: Mapping[str, Sequence[Tensor]], seed: int) -> None:
    """Take every derivative of the penalty that will be asked for once, before any weight moves.

    Args:
        module: whose penalty.
        batch: a few samples.
        live: name -> the players' parameters.
        seed: of everything random.

    Raises:
        DifferentiationError: the logits do not depend on the input, or a layer lacks a second derivative; or a third
            one, which the exact cross term of a penalty on fakes needs.
    """
    if module.penalty is None:
        return
    own = tuple(p.detach().requires_grad_() for p in live["discriminator"])
    evaluation = GANEvaluation(module, batch, seed, repeated=False, structure=module._structure)
    hold = Placement(module, live).hold
    with evaluation.look(replay=True), hold({"discriminator": own}), module._full_precision(), torch.enable_grad():
        with torch.no_grad():
            fakes = module._fakes(batch)
        value = penalty_on(module, batch, fakes)
        if value is None or not value.requires_grad:
            return  # every slope is constant
        order = "second"
        try:
            # all of the graph, not the paths to the weights alone: see `calculus.derivatives.cross_term`
            value.backward(retain_graph=True)
            if module.game.rule.second_order and module.penalty.looks_at_fakes:
                order = "third"
                grads = torch.autograd.grad(value, own, create_graph=True, allow_unused=True)
                field = tuple(g for g in grads if g is not None)
                if (product := inner(field, field)).requires_grad:
                    product.backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            found, otherwise = suspects(module.discriminator), "leave the penalty out"
            if order == "third":  # torch's batch norm has two
                norms = [(name, m) for name, m in module.discriminator.named_modules() if isinstance(m, _BatchNorm)]
                found = [*found, *(f"{name} ({type(m).__name__})" for name, m in norms)]
                otherwise = f"take R1, or {module.game.rule.first_order}"
            named = f"; look at {', '.join(found)}" if found else ""
            kind = HigherDerivativeError if order == "third" else DifferentiationError  # the second is of every rule
            raise kind(
                f"Cannot take the derivatives of {type(module.penalty).__name__} because a layer of the discriminator "
                f"has no {order} derivative{named}. Replace the layer, or {otherwise} "
                f"(got: {first_line(error)})"
            ) from error

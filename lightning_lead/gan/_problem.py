"""A GAN as two losses on a micro-batch: the networks, the objective and the penalty, without a trainer.

L_G = ℓ_G(D(G(z))),   L_D = ℓ_D(D(x), D(G(z))) + p(D; x, G(z))
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._chain.dual import uncompiled
from lightning_lead.calculus._rng import PrivateNoise, mix_seed
from lightning_lead.calculus.replay import frozen_buffers
from lightning_lead.objectives import AbstractPenalty, adversarial_objective

__all__ = ["AdversarialLosses", "GANBatch", "GANProblem", "HookedProblem", "call_network", "takes_labels"]


class GANBatch(NamedTuple):
    """The micro-batch of a turn: reals, and the latents of the fakes, drawn once and used in every evaluation.

    `LeadGANModule.wanted_losses(batch, wanted)` gets it, and `game_turns(batch)` returns turns of it.

    Example:
        >>> import torch
        >>> batch = GANBatch(torch.zeros(4, 2), None, torch.zeros(8, 3), None, discriminator_moves=True)
        >>> [len(part.latents) for part in batch.split(2)], len(batch.first(3).real)
        ([4, 4], 3)
    """

    real: Tensor  # (m, ...)
    labels: Tensor | None  # of the reals, (m,); None for an unconditional GAN
    latents: Tensor  # (k, latent_dim)
    fake_labels: Tensor | None  # of the fakes, (k,)
    discriminator_moves: bool  # alone or with the generator; otherwise D(x) moves no buffers

    def split(self, parts: int) -> list[GANBatch]:
        """Return as many equal micro-batches; `parts` must divide m and k."""
        columns = (field.chunk(parts) if isinstance(field, Tensor) else [field] * parts for field in self)
        return [GANBatch(*fields) for fields in zip(*columns, strict=True)]

    def first(self, count: int) -> GANBatch:
        """Return the first `count` reals and latents, with their labels."""
        return GANBatch._make(field[:count] if isinstance(field, Tensor) else field for field in self)


class AdversarialLosses:
    """The two losses of an objective, by logits: hooks of a problem and of a module, which a subclass may override."""

    objective: Any

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """Return the generator's loss ℓ_G, a scalar."""
        loss: Tensor = self.objective.generator_loss(fake_logits)
        return loss

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the discriminator's loss ℓ_D, a scalar."""
        loss: Tensor = self.objective.discriminator_loss(real_logits, fake_logits)
        return loss


class GANProblem(AdversarialLosses):
    """The losses of a GAN on a micro-batch. Subclass it to change one; the methods use each other.

    Args:
        generator: latents (k, latent_dim)[, labels (k,)] -> fakes of the shape of the reals.
        discriminator: samples[, labels] -> logits, one per sample.
        objective: a name, or an object with `generator_loss` and `discriminator_loss`; see `objectives`.
        penalty: on top of the discriminator's loss, or None.
        noise: the random numbers that penalties draw from; default the global ones.

    Example:
        >>> import torch
        >>> problem = GANProblem(nn.Linear(3, 2), nn.Linear(2, 1), objective="hinge")
        >>> batch = GANBatch(torch.zeros(4, 2), None, torch.zeros(4, 3), None, True)
        >>> sorted(problem.losses(batch, frozenset({"generator", "discriminator"})))
        ['discriminator', 'generator']
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        objective: Any = "non_saturating",
        penalty: AbstractPenalty | None = None,
        noise: PrivateNoise | None = None,
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.objective, self.penalty = adversarial_objective(objective), penalty
        self.noise = noise if noise is not None else PrivateNoise()
        self.penalties: dict[int, Tensor] = {}
        """Values of the penalty by the seed of their evaluation, for the log."""

    @property
    def module(self) -> nn.Module:
        """Whatever holds buffers that a forward moves: both networks."""
        return nn.ModuleList([self.generator, self.discriminator])

    @property
    def separable(self) -> bool:
        """True if the discriminator's loss is a function of the reals' logits plus one of the fakes' logits."""
        own = type(self).discriminator_loss is GANProblem.discriminator_loss
        return own and bool(getattr(self.objective, "separable", False))

    @property
    def overridden(self) -> bool:
        """True if `losses` is no longer made of the methods below, so that nothing is known of its structure."""
        return type(self).losses is not GANProblem.losses

    @property
    def penalty_sees_fakes(self) -> bool:
        """True if the penalty depends on the fakes."""
        return self.penalty is not None and self.penalty.looks_at_fakes

    def losses(self, batch: GANBatch, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Evaluate the wanted losses, "generator" and "discriminator", means over the micro-batch."""
        fakes = self.fakes(batch)
        fake_logits = self.fake_logits(batch, fakes)
        losses = {}
        if "generator" in wanted:
            losses["generator"] = self.generator_loss(fake_logits)
        if "discriminator" in wanted:
            loss = self.discriminator_loss(self.real_logits(batch), fake_logits)
            penalty = self.penalty_on(batch, fakes)
            losses["discriminator"] = loss if penalty is None else loss + penalty
        return losses

    def generate(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """G(z), with labels if the generator takes them."""
        return call_network(self.generator, latents, labels)

    def fakes(self, batch: GANBatch) -> Tensor:
        """G(z) of the batch's latents; refuses a shape that is not that of the reals."""
        fakes = self.generate(batch.latents, batch.fake_labels)
        if fakes.shape[1:] != batch.real.shape[1:]:
            raise ConfigurationError(
                "Cannot compare fakes with reals because the generator returns another shape; make it return "
                f"(n, {', '.join(map(str, batch.real.shape[1:]))}) (got {tuple(fakes.shape)})"
            )
        return fakes

    def fake_logits(self, batch: GANBatch, fakes: Tensor) -> Tensor:
        """D(u), with the fakes' labels if the discriminator takes them."""
        return self._logits(fakes, batch.fake_labels)

    def real_logits(self, batch: GANBatch) -> Tensor:
        """D(x); in the generator's turn, where a cross term alone needs it, buffers stay as they are."""
        if batch.discriminator_moves:
            return self._logits(batch.real, batch.labels)
        with frozen_buffers(self.discriminator):
            return self._logits(batch.real, batch.labels)

    def _logits(self, samples: Tensor, labels: Tensor | None) -> Tensor:
        logits = call_network(self.discriminator, samples, labels)
        if not isinstance(logits, Tensor):
            raise ConfigurationError(
                f"Cannot use what {type(self.discriminator).__name__} returns because it is no tensor; make it return "
                "logits, one per sample, or override wanted_losses(batch, wanted) and take what you need of it "
                f"(got {type(logits).__name__})"
            )
        return logits

    def penalty_on(self, batch: GANBatch, fakes: Tensor) -> Tensor | None:
        """p, of the discriminator as it was in its last forward; None without a penalty.

        Its random numbers depend on the seed of the evaluation alone, so a replay that leaves out a forward draws them
        again. It is a mean over samples, as the losses are, so accumulation and ranks average it along with them.
        """
        if self.penalty is None:
            return None
        generator = self.noise.generator
        seed = None if generator is None else generator.initial_seed()
        # a further evaluation, which moves no buffer, in code that has a second derivative
        with frozen_buffers(self.discriminator), uncompiled():
            if seed is None:
                value = self._penalise(self.penalty, batch, fakes)
            else:
                with self.noise.seeded(mix_seed(seed, 1)):
                    value = self._penalise(self.penalty, batch, fakes)
        if seed is not None and batch.discriminator_moves:
            self.penalties.setdefault(seed, value.detach())  # replays and parts share the seed: the first one is kept
        return value

    def _penalise(self, penalty: AbstractPenalty, batch: GANBatch, fakes: Tensor) -> Tensor:
        return penalty(
            partial(call_network, self.discriminator),
            batch.real,
            fakes if penalty.looks_at_fakes else None,
            labels=batch.labels,
            noise=self.noise.generator,
        )


class HookedProblem(GANProblem):
    """The problem of a module: its networks as they are now, and every hook that a subclass may have overridden."""

    def __init__(
        self,
        hooks: Any,  # networks, objective, penalty, and forward, generator_loss, discriminator_loss: a LeadGANModule
        *,
        noise: PrivateNoise,
        penalties: dict[int, Tensor],
        own_loss: bool,  # the discriminator's loss is the objective's
        own_losses: bool,  # `losses` is made of the hooks
    ) -> None:
        self._hooks, self._own_loss, self._own_losses = hooks, own_loss, own_losses
        self.generator, self.discriminator = hooks.generator, hooks.discriminator
        self.objective, self.penalty = hooks.objective, hooks.penalty
        self.noise, self.penalties = noise, penalties

    @property
    def module(self) -> nn.Module:
        """The module itself, which holds both networks."""
        module: nn.Module = self._hooks
        return module

    @property
    def separable(self) -> bool:
        """True if the objective is, and its loss is the discriminator's."""
        return self._own_loss and bool(getattr(self.objective, "separable", False))

    @property
    def overridden(self) -> bool:
        """True if the module has losses of its own."""
        return not self._own_losses

    def generate(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """The module's `forward`."""
        fakes: Tensor = self._hooks(latents, labels)
        return fakes

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """The module's hook."""
        loss: Tensor = self._hooks.generator_loss(fake_logits)
        return loss

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The module's hook."""
        loss: Tensor = self._hooks.discriminator_loss(real_logits, fake_logits)
        return loss


def takes_labels(network: nn.Module) -> bool:
    """Return True if labels are passed to the network.

    One that may take labels but names no classes is unconditional: its optional argument stays unused.
    """
    forward = getattr(network, "_orig_mod", network).forward  # inside of what torch.compile has wrapped
    function = getattr(forward, "__func__", None)
    arguments = _positional(forward) if function is None else _of_method(function)[1:]
    return len(arguments) > 1 and (
        arguments[1].default is inspect.Parameter.empty or getattr(network, "num_classes", None) is not None
    )


@functools.lru_cache
def _of_method(function: Callable[..., Any]) -> list[inspect.Parameter]:
    # a function's arguments do not change, and reading them takes longer than a small layer; networks are not kept
    return _positional(function)


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def call_network(network: nn.Module, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return a network's output, with labels if it takes them; it is an error if there are none."""
    if not takes_labels(network):
        unconditional: Tensor = network(inputs)
        return unconditional
    if labels is None:
        raise ConfigurationError(
            f"Cannot call {type(network).__name__} because it takes labels and there are none; let the loader yield "
            "(samples, labels), or override unpack_batch(batch) and sample_labels(n)"
        )
    conditional: Tensor = network(inputs, labels)
    return conditional

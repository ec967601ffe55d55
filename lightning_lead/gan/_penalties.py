"""Penalties on a micro-batch of a GAN: which are due, by which random numbers, and what they came to."""

from __future__ import annotations

import abc
import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._chain.dual import uncompiled
from lightning_lead.calculus._chain.links import PenaltyParts
from lightning_lead.calculus._rng import PrivateNoise, mix_seed
from lightning_lead.calculus.replay import frozen_buffers
from lightning_lead.gan._batch import EVALUATED, GANBatch
from lightning_lead.gan._labels import takes_labels, with_labels
from lightning_lead.objectives import AbstractGeneratorPenalty, AbstractPenalty
from lightning_lead.objectives._penalty_settings import check_every
from lightning_lead.objectives.penalties import usable

__all__ = ["PenalisedLosses", "as_penalties", "check_generator_penalty", "no_penalty_values"]


class PenalisedLosses(abc.ABC):
    """The part of a problem that evaluates both players' penalties, by the networks of the rest."""

    generator: nn.Module
    penalties: tuple[AbstractPenalty, ...]
    generator_penalty: AbstractGeneratorPenalty | None
    noise: PrivateNoise
    penalty_values: dict[str, dict[int, Tensor]]

    @property
    def penalty_sees_fakes(self) -> bool:
        """True if a penalty depends on the fakes."""
        return any(penalty.looks_at_fakes for penalty in self.penalties)

    @abc.abstractmethod
    def generate(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """G(z), with labels if the generator takes them."""

    @abc.abstractmethod
    def logits(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """D of any samples, with labels if the discriminator takes them."""

    @abc.abstractmethod
    def frozen(self) -> AbstractContextManager[None]:
        """Let no buffer of the discriminator and of the augmentation move."""

    def penalty_on(self, batch: GANBatch, fakes: Tensor) -> Tensor | None:
        """Σ p, of the discriminator as it was in its last forward; None if no penalty is due in this update."""
        return self.penalty_parts(batch, fakes).whole

    def penalty_parts(self, batch: GANBatch, fakes: Tensor, *, of_fakes: bool = False) -> PenaltyParts:
        """Σ p, and that of the penalties that look at fakes alone.

        Their random numbers depend on the seed of the evaluation alone, so a replay that leaves out a forward draws
        them again. They are means over samples, as the losses are, so accumulation and ranks average them along.

        Args:
            batch: the micro-batch.
            fakes: G(z).
            of_fakes: evaluate no penalty that depends on the reals alone.
        """
        evaluated = batch.update == EVALUATED
        due = {
            k: penalty
            for k, penalty in enumerate(self.penalties)
            if (evaluated or batch.update % penalty.every == 0) and (penalty.looks_at_fakes or not of_fakes)
        }
        if not due:
            return PenaltyParts(None, None)
        values: list[Tensor] = []
        seed = None
        # a further evaluation, which moves no buffer of D, in code that has a second derivative
        with self.frozen(), uncompiled():
            for k, penalty in due.items():
                seed, noise = self._seed_of_penalty(1 + k)
                with noise, _still(penalty, not batch.discriminator_moves):
                    value = self._penalise(penalty, batch, fakes)
                values.append(value if evaluated or penalty.every == 1 else penalty.every * value)
        total = functools.reduce(operator.add, values)
        entering = [value for value, penalty in zip(values, due.values(), strict=True) if penalty.looks_at_fakes]
        if seed is not None and batch.discriminator_moves and not of_fakes:
            # replays and parts share the seed: the first one is kept
            self.penalty_values["discriminator"].setdefault(seed, total.detach())
        return PenaltyParts(total, functools.reduce(operator.add, entering) if entering else None)

    def penalises_generator(self, batch: GANBatch) -> bool:
        """True if the generator's penalty is due in this update."""
        penalty = self.generator_penalty
        due = batch.update == EVALUATED or (penalty is not None and batch.generator_update % penalty.every == 0)
        return penalty is not None and due

    def generator_penalty_on(self, batch: GANBatch) -> Tensor | None:
        """q, of the generator as it was in its last forward; None if none is due in this update.

        As the discriminator's, it draws random numbers of its own, moves no buffer of a network, and is a mean.
        """
        penalty, evaluated = self.generator_penalty, batch.update == EVALUATED
        if penalty is None or not self.penalises_generator(batch):
            return None
        with torch.inference_mode(False):
            latents, labels = usable(batch.latents), None if batch.fake_labels is None else usable(batch.fake_labels)
        seed, noise = self._seed_of_penalty(0)
        with frozen_buffers(self.generator), uncompiled(), noise, _still(penalty, not batch.generator_moves):
            value: Tensor = penalty(*self._styled(labels), latents, noise=self.noise.generator)
        if not isinstance(value, Tensor) or value.dim():  # an override may return anything
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigurationError(
                f"Cannot add {type(penalty).__name__} to the generator's loss because it is no scalar tensor; return "
                f"a mean over samples (got {got})"
            )
        value = value if evaluated or penalty.every == 1 else penalty.every * value
        if seed is not None and batch.generator_moves:
            self.penalty_values["generator"].setdefault(seed, value.detach())
        return value

    def _seed_of_penalty(self, k: int) -> tuple[int | None, AbstractContextManager[None]]:
        """The seed of this evaluation, and the random numbers of its k-th penalty; the global ones outside of one."""
        generator = self.noise.generator
        if generator is None:
            return None, nullcontext()
        seed = generator.initial_seed()
        return seed, self.noise.seeded(mix_seed(seed, k))

    def _styled(self, labels: Tensor | None) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The generator's mapping and synthesis, labels given; or the identity and all of it."""
        network = self.generator
        mapping, synthesis = (getattr(network, name, None) for name in ("mapping", "synthesis"))
        if not (callable(mapping) and callable(synthesis)):
            return lambda latents: latents, lambda latents: self.generate(latents, labels)
        if labels is None or not takes_labels(network):
            return mapping, synthesis
        given = [with_labels(part, labels) for part in (mapping, synthesis)]
        if not any(given):
            raise ConfigurationError(
                f"Cannot penalise {type(network).__name__} because it takes labels, and neither its mapping nor its "
                "synthesis does; call their argument labels"
            )
        return given[0] or mapping, given[1] or synthesis

    def _penalise(self, penalty: AbstractPenalty, batch: GANBatch, fakes: Tensor) -> Tensor:
        return penalty(
            self.logits,
            batch.real,
            fakes if penalty.looks_at_fakes else None,
            labels=batch.labels,
            noise=self.noise.generator,
        )


@contextmanager
def _still(penalty: object, still: bool) -> Iterator[None]:
    """Put a penalty with averages into eval mode, in which they stay: its player does not move."""
    if not still or not isinstance(penalty, nn.Module) or not penalty.training:
        yield
        return
    penalty.eval()
    try:
        yield
    finally:
        penalty.train()


def no_penalty_values() -> dict[str, dict[int, Tensor]]:
    """Player -> seed of an evaluation -> the value of the player's penalties there, for the log; empty."""
    return {"discriminator": {}, "generator": {}}


def check_generator_penalty(penalty: Any) -> AbstractGeneratorPenalty | None:
    """Return the generator's penalty; refuse what is none."""
    if penalty is not None and not isinstance(penalty, AbstractGeneratorPenalty):
        raise ConfigurationError(
            "Cannot use this object as generator_penalty because it is no AbstractGeneratorPenalty; pass "
            f"PathLength(weight=2.0), a subclass of AbstractGeneratorPenalty of your own, or None (got {penalty!r})"
        )
    if penalty is not None:
        check_every(penalty, of="generator")
    return penalty


def as_penalties(penalty: Any) -> tuple[AbstractPenalty, ...]:
    """Return the penalties that were given: none, one, or several.

    Raises:
        ConfigurationError: what is no penalty.
    """
    given = tuple(penalty) if isinstance(penalty, (list, tuple, nn.ModuleList)) else (penalty,)
    for each in given:
        if isinstance(each, type):
            raise ConfigurationError(
                "Cannot use a class as a penalty because its weight belongs to an instance; pass "
                f"{each.__name__}(...) (got the class {each.__name__})"
            )
        if each is not None and not isinstance(each, AbstractPenalty):
            raise ConfigurationError(
                "Cannot use this object as a penalty because it is no AbstractPenalty; pass R1(weight=10.0), "
                "WGANGP(weight=10.0), a subclass of AbstractPenalty of your own, a list of them, or None "
                f"(got {each!r})"
            )
        if each is not None:
            check_every(each)
    return tuple(each for each in given if each is not None)

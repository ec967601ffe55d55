"""A GAN as two losses on a micro-batch: the networks, the objective and the penalty, without a trainer.

L_G = ℓ_G(D(G(z))) + q(G; z),   L_D = ℓ_D(D(x), D(G(z))) + p(D; x, G(z))
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._chain.dual import uncompiled
from lightning_lead.calculus._chain.links import PenaltyParts
from lightning_lead.calculus._rng import PrivateNoise, mix_seed
from lightning_lead.calculus._terms import COUPLED
from lightning_lead.calculus.replay import frozen_buffers
from lightning_lead.gan._batch import EVALUATED, GANBatch
from lightning_lead.gan._labels import call_network
from lightning_lead.gan.augmentation import adaptive_parts
from lightning_lead.objectives import AbstractGeneratorPenalty, AbstractPenalty, adversarial_objective
from lightning_lead.objectives.adversarial import real_logits_argument

__all__ = ["AdversarialLosses", "GANProblem", "as_penalties", "check_generator_penalty", "no_penalty_values"]


class AdversarialLosses:
    """The two losses of an objective, by logits: hooks of a problem and of a module, which a subclass may override."""

    objective: Any

    @property
    def generator_sees_reals(self) -> bool:
        """True if the generator's loss takes `real_logits`, as relativistic ones do; a hook may leave that open."""
        needs = real_logits_argument(type(self).generator_loss)
        if needs is None or needs.default is inspect.Parameter.empty:
            return needs is not None
        return real_logits_argument(self.objective.generator_loss) is not None

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """Return the generator's loss ℓ_G, a scalar; an override may leave `real_logits` out, if it does not use them.

        Args:
            fake_logits: D(u).
            real_logits: D(x), if the objective wants them, or else None.
        """
        takes = real_logits is not None and real_logits_argument(self.objective.generator_loss) is not None
        loss: Tensor = self.objective.generator_loss(fake_logits, **({"real_logits": real_logits} if takes else {}))
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
        penalty: on top of the discriminator's loss, or several of them, or None.
        generator_penalty: on top of the generator's loss, or None.
        augment: samples -> samples, differentiable, applied to whatever the discriminator sees; or None.
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
        penalty: AbstractPenalty | Sequence[AbstractPenalty] | None = None,
        generator_penalty: AbstractGeneratorPenalty | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        noise: PrivateNoise | None = None,
    ) -> None:
        self.generator, self.discriminator, self.augment = generator, discriminator, augment
        self.objective, self.penalties = adversarial_objective(objective), as_penalties(penalty)
        self.generator_penalty = check_generator_penalty(generator_penalty)
        self.noise = noise if noise is not None else PrivateNoise()
        self.penalty_values = no_penalty_values()

    @property
    def module(self) -> nn.Module:
        """Whatever holds buffers that a forward moves: both networks, and penalties and an augmentation with state."""
        held = [self.generator, self.discriminator, self.augment, *self.penalties, self.generator_penalty]
        return nn.ModuleList(part for part in held if isinstance(part, nn.Module))

    @property
    def separable(self) -> bool:
        """True if the discriminator's loss is a function of the reals' logits plus one of the fakes' logits."""
        own = type(self).discriminator_loss is GANProblem.discriminator_loss
        return own and self._separable_objective()

    def _separable_objective(self) -> bool:
        return bool(getattr(self.objective, "separable", False)) and not self.generator_sees_reals

    @property
    def overridden(self) -> bool:
        """True if `losses` is no longer made of the methods below, so that nothing is known of its structure."""
        return type(self).losses is not GANProblem.losses

    @property
    def penalty_sees_fakes(self) -> bool:
        """True if a penalty depends on the fakes."""
        return any(penalty.looks_at_fakes for penalty in self.penalties)

    def losses(self, batch: GANBatch, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Evaluate the wanted losses, "generator" and "discriminator", means over the micro-batch."""
        fakes = self.fakes(batch)
        fake_logits = self.fake_logits(batch, fakes)
        losses = {}
        reals: dict[str, Tensor] = {}
        if self.generator_sees_reals:
            reals["real_logits"] = self.real_logits(batch)  # once for both players
        # D(x) comes after a loss that does not see it, which may use what D has kept of its forward on the fakes
        if "generator" in wanted:
            losses["generator"] = loss = self.generator_loss(fake_logits, **reals)
            own = self.generator_penalty_on(batch)
            if own is not None:  # players meet in the rest alone
                losses |= {"generator": loss + own, COUPLED + "generator": loss}
        if "discriminator" in wanted:
            real_logits = reals["real_logits"] if reals else self.real_logits(batch)
            loss = self.discriminator_loss(real_logits, fake_logits)
            penalty = self.penalty_on(batch, fakes)
            losses["discriminator"] = loss if penalty is None else loss + penalty
        return losses

    def generate(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """G(z), with labels if the generator takes them."""
        fakes: Tensor = call_network(self.generator, latents, labels)
        return fakes

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
        if batch.discriminator_moves or self.generator_sees_reals:
            logits = self._logits(batch.real, batch.labels)
            if batch.discriminator_moves:
                for augment in adaptive_parts(self.augment):
                    augment.observe(logits)
            return logits
        with self._frozen():
            return self._logits(batch.real, batch.labels)

    def _logits(self, samples: Tensor, labels: Tensor | None) -> Tensor:
        samples = samples if self.augment is None else self.augment(samples)
        output: Any = call_network(self.discriminator, samples, labels)
        logits = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(logits, Tensor):
            raise ConfigurationError(
                f"Cannot use what {type(self.discriminator).__name__} returns because it is no tensor, and no tuple "
                "that begins with one; make it return logits, or (logits, features, ...), or override "
                f"wanted_losses(batch, wanted) and take what you need of it (got {type(logits).__name__})"
            )
        return logits

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
        with self._frozen(), uncompiled():
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

    def generator_penalty_on(self, batch: GANBatch) -> Tensor | None:
        """q, of the generator as it was in its last forward; None if none is due in this update.

        As the discriminator's, it draws random numbers of its own, moves no buffer of a network, and is a mean.
        """
        penalty, evaluated = self.generator_penalty, batch.update == EVALUATED
        if penalty is None or not (evaluated or batch.generator_update % penalty.every == 0):
            return None
        seed, noise = self._seed_of_penalty(0)
        with frozen_buffers(self.generator), uncompiled(), noise, _still(penalty, not batch.generator_moves):
            value = penalty(*self._styled(batch.fake_labels), batch.latents, noise=self.noise.generator)
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
        if not (callable(getattr(network, "mapping", None)) and callable(getattr(network, "synthesis", None))):
            return lambda latents: latents, lambda latents: self.generate(latents, labels)

        def part(name: str) -> Callable[[Tensor], Tensor]:
            of = getattr(network, name)
            return (lambda inputs: call_network(of, inputs, labels)) if isinstance(of, nn.Module) else of

        return part("mapping"), part("synthesis")

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Let no buffer of the discriminator and of the augmentation move."""
        augment = frozen_buffers(self.augment) if isinstance(self.augment, nn.Module) else nullcontext()
        with frozen_buffers(self.discriminator), augment:
            yield

    def _penalise(self, penalty: AbstractPenalty, batch: GANBatch, fakes: Tensor) -> Tensor:
        return penalty(
            self._logits_of,
            batch.real,
            fakes if penalty.looks_at_fakes else None,
            labels=batch.labels,
            noise=self.noise.generator,
        )

    def _logits_of(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._logits(samples, labels)


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
            "Cannot use this object as a generator's penalty because it is no AbstractGeneratorPenalty; pass "
            f"PathLength(weight=2.0), a subclass of AbstractGeneratorPenalty of your own, or None (got {penalty!r})"
        )
    _check_every(penalty, "generator")
    return penalty


def _check_every(penalty: object, player: str) -> None:
    every = getattr(penalty, "every", 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigurationError(
            f"Cannot use {type(penalty).__name__} because its attribute every counts updates of the {player}; "
            f"let it be an integer ≥ 1 (got {every!r})"
        )


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
        _check_every(each, "discriminator")
    return tuple(each for each in given if each is not None)

"""A GAN as two losses on a micro-batch: the networks, the objective and the penalty, without a trainer.

L_G = ℓ_G(D(G(z))) + q(G; z),   L_D = ℓ_D(D(x), D(G(z))) + p(D; x, G(z))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._rng import PrivateNoise
from lightning_lead.calculus._terms import COUPLED
from lightning_lead.calculus.replay import frozen_buffers
from lightning_lead.gan._batch import GANBatch
from lightning_lead.gan._labels import call_network
from lightning_lead.gan._penalties import PenalisedLosses, as_penalties, check_generator_penalty, no_penalty_values
from lightning_lead.gan.augmentation import adaptive_parts
from lightning_lead.objectives import AbstractGeneratorPenalty, AbstractPenalty, adversarial_objective
from lightning_lead.objectives.adversarial import real_logits_argument

__all__ = ["AdversarialLosses", "GANProblem", "HookedProblem"]


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


class GANProblem(AdversarialLosses, PenalisedLosses):
    """The losses of a GAN on a micro-batch. Subclass it to change one; the methods use each other.

    Args:
        generator: latents (k, latent_dim)[, labels (k,)] -> fakes of the shape of the reals.
        discriminator: samples[, labels] -> logits, one per sample.
        objective: a name, or an object with `generator_loss` and `discriminator_loss`; see `objectives`.
        penalty: on top of the discriminator's loss, or several of them, or None.
        generator_penalty: on top of the generator's loss, or None.
        augment: samples -> samples, differentiable, applied to whatever the discriminator sees; or None.
        noise: the random numbers that penalties draw from; default the global ones.

    Penalties with `every=k` are due where `update` and `generator_update` of the batch are multiples of k.

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
        check_arguments(GANProblem, locals(), but=("penalty", "generator_penalty"))
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
            if own is not None:
                losses["generator"] = loss + own
                if not self.overridden:  # what an override adds may be coupled too
                    losses[COUPLED + "generator"] = loss
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
        """G(z) of the batch's latents; refuses what is not one fake per latent, of the shape of the reals."""
        fakes: Any = self.generate(batch.latents, batch.fake_labels)
        shape = (len(batch.latents), *batch.real.shape[1:])
        if not isinstance(fakes, Tensor) or fakes.shape != shape or not _continuous(fakes):
            got = f"{tuple(fakes.shape)} of {fakes.dtype}" if isinstance(fakes, Tensor) else f"a {type(fakes).__name__}"
            raise ConfigurationError(
                "Cannot compare fakes with reals because the generator returns something else, or of another shape; "
                f"make it, or forward(), return floats {shape}, one fake per latent (got {got})"
            )
        return fakes

    def fake_logits(self, batch: GANBatch, fakes: Tensor) -> Tensor:
        """D(u), with the fakes' labels if the discriminator takes them."""
        return self.logits(fakes, batch.fake_labels)

    def real_logits(self, batch: GANBatch) -> Tensor:
        """D(x); in the generator's turn, where a cross term alone needs it, buffers stay as they are."""
        if batch.discriminator_moves or self.generator_sees_reals:
            logits = self.logits(batch.real, batch.labels)
            if batch.discriminator_moves:
                for augment in adaptive_parts(self.augment):
                    augment.observe(logits)
            return logits
        with self.frozen():
            return self.logits(batch.real, batch.labels)

    def logits(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        samples = samples if self.augment is None else self.augment(samples)
        output: Any = call_network(self.discriminator, samples, labels)
        logits = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(logits, Tensor) or not _continuous(logits):
            got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigurationError(
                f"Cannot use what {type(self.discriminator).__name__} returns because it is no tensor of floats, nor "
                "a tuple that begins with one; make it return logits, or (logits, features, ...), or override "
                f"wanted_losses(batch, wanted) and take what you need of it (got {got})"
            )
        # several logits per sample, as of patches, and one for several samples that are packed into one, are fine
        of, n = logits.shape[0] if logits.dim() else 0, len(samples)
        if logits.dim() == 0 or (n and (of == 0 or (of == 1 and n > 1) or (of % n and n % of))):
            raise ConfigurationError(
                f"Cannot use what {type(self.discriminator).__name__} returns because losses are means over logits, "
                f"and it returns none per sample; make it return {n}, without a mean (got {tuple(logits.shape)})"
            )
        return logits

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no buffer of the discriminator and of the augmentation move."""
        augment = frozen_buffers(self.augment) if isinstance(self.augment, nn.Module) else nullcontext()
        with frozen_buffers(self.discriminator), augment:
            yield


def _continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


class HookedProblem(GANProblem):
    """The problem of a module: its networks as they are now, and every hook that a subclass may have overridden."""

    def __init__(
        self,
        hooks: Any,  # networks, objective, penalties, augment, and forward and the losses: a LeadGANModule
        *,
        noise: PrivateNoise,
        penalty_values: dict[str, dict[int, Tensor]],
        own_loss: bool,  # the discriminator's loss is the objective's
        own_losses: bool,  # `losses` is made of the hooks
    ) -> None:
        self._hooks, self._own_loss, self._own_losses = hooks, own_loss, own_losses
        self.generator, self.discriminator = hooks.generator, hooks.discriminator
        self.objective, self.penalties, self.augment = hooks.objective, as_penalties(hooks.penalty), hooks.augment
        self.generator_penalty = check_generator_penalty(hooks.generator_penalty)
        self.noise, self.penalty_values = noise, penalty_values

    @property
    def module(self) -> nn.Module:
        """The module itself, which holds both networks."""
        module: nn.Module = self._hooks
        return module

    @property
    def separable(self) -> bool:
        """True if the objective is, and its loss is the discriminator's."""
        return self._own_loss and self._separable_objective()

    @property
    def generator_sees_reals(self) -> bool:
        """True if the module's hook, or its objective, takes `real_logits`."""
        sees: bool = self._hooks.generator_sees_reals
        return sees

    @property
    def overridden(self) -> bool:
        """True if the module has losses of its own."""
        return not self._own_losses

    def generate(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """The module's `forward`."""
        fakes: Tensor = self._hooks(latents, labels)
        return fakes

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """The module's hook."""
        reals = {} if real_logits is None else {"real_logits": real_logits}
        loss: Tensor = self._hooks.generator_loss(fake_logits, **reals)
        return loss

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The module's hook."""
        loss: Tensor = self._hooks.discriminator_loss(real_logits, fake_logits)
        return loss

"""The problem of a module, by whose hooks its losses are made."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_lead.calculus._rng import PrivateNoise
from lightning_lead.gan._problem import GANProblem, as_penalties

__all__ = ["HookedProblem"]


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
        self.generator_penalty = hooks.generator_penalty
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

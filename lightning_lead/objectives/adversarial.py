"""Adversarial losses of logits; r = D(real), u = D(fake), sigma the logistic function, sp softplus.

    non-saturating   L_D = E sp(-r) + E sp(u)             L_G = E sp(-u)
    minimax          L_D = E sp(-r) + E sp(u)             L_G = -E sp(u)
    hinge            L_D = E max(0, 1-r) + E max(0, 1+u)  L_G = -E u
    wasserstein      L_D = E u - E r                      L_G = -E u

References: Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014 (minimax, non-saturating); Lim and Ye,
"Geometric GAN", arXiv 1705.02894 (hinge); Arjovsky et al., "Wasserstein GAN", ICML 2017.
"""

from __future__ import annotations

import abc
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_lead._errors import ConfigurationError

__all__ = ["AdversarialObjective", "Hinge", "Minimax", "NonSaturating", "Wasserstein", "adversarial_objective"]


class AdversarialObjective(abc.ABC):
    """Two losses of logits. Subclasses are final."""

    zero_sum: bool = False
    """Whether L_G = -L_D up to the real part of L_D, which the generator cannot influence."""

    @abc.abstractmethod
    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """The generator's loss.

        Args:
            fake_logits: any shape.

        Returns:
            A scalar.
        """

    @abc.abstractmethod
    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The discriminator's loss.

        Args:
            real_logits: any shape.
            fake_logits: any shape.

        Returns:
            A scalar.
        """


class _Logistic(AdversarialObjective):
    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()


@final
class NonSaturating(_Logistic):
    """L_D = E sp(-r) + E sp(u), L_G = E sp(-u): the usual GAN loss; not zero-sum.

    Example:
        >>> round(NonSaturating().generator_loss(torch.zeros(4)).item(), 4)
        0.6931
    """

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """E sp(-u)."""
        return softplus(-fake_logits).mean()


@final
class Minimax(_Logistic):
    """L_D = E sp(-r) + E sp(u), L_G = -E sp(u): the zero-sum game of the first GAN paper.

    Example:
        >>> round(Minimax().generator_loss(torch.zeros(4)).item(), 4)
        -0.6931
    """

    zero_sum = True

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """-E sp(u)."""
        return -softplus(fake_logits).mean()


@final
class Hinge(AdversarialObjective):
    """L_D = E max(0, 1-r) + E max(0, 1+u), L_G = -E u: the loss of SNGAN.

    Example:
        >>> Hinge().discriminator_loss(torch.tensor([2.0]), torch.tensor([0.5])).item()
        1.5
    """

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """-E u."""
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E max(0, 1-r) + E max(0, 1+u)."""
        return torch.relu(1 - real_logits).mean() + torch.relu(1 + fake_logits).mean()


@final
class Wasserstein(AdversarialObjective):
    """L_D = E u - E r, L_G = -E u: needs a Lipschitz discriminator, such as one with spectral norm.

    Example:
        >>> Wasserstein().discriminator_loss(torch.tensor([2.0]), torch.tensor([0.5])).item()
        -1.5
    """

    zero_sum = True

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """-E u."""
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E u - E r."""
        return fake_logits.mean() - real_logits.mean()


_BY_NAME = {"non_saturating": NonSaturating, "minimax": Minimax, "hinge": Hinge, "wasserstein": Wasserstein}


def adversarial_objective(objective: Any) -> Any:
    """An objective by name, or the object itself if it has both losses.

    Args:
        objective: "non_saturating", "minimax", "hinge", "wasserstein", or an object with `generator_loss` and
            `discriminator_loss`.

    Raises:
        ConfigurationError: neither.

    Example:
        >>> type(adversarial_objective("hinge")).__name__
        'Hinge'
    """
    if isinstance(objective, str) and objective in _BY_NAME:
        return _BY_NAME[objective]()
    if callable(getattr(objective, "generator_loss", None)) and callable(
        getattr(objective, "discriminator_loss", None)
    ):
        return objective
    raise ConfigurationError(
        f"Cannot use objective={objective!r}; choose one of {sorted(_BY_NAME)}, or pass an object with "
        "generator_loss(fake_logits) and discriminator_loss(real_logits, fake_logits)"
    )

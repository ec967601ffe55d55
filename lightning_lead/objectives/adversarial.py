"""Adversarial losses of a GAN, written on logits r = D(real) and t = D(fake); E is the mean over all logits.

    objective        L_D                                    L_G                 zero-sum
    non_saturating   E[softplus(−r)] + E[softplus(t)]       E[softplus(−t)]     no
    minimax          E[softplus(−r)] + E[softplus(t)]       −E[softplus(t)]     yes
    hinge            E[max(0, 1 − r)] + E[max(0, 1 + t)]    −E[t]               no
    wasserstein      −E[r] + E[t]                           −E[t]               yes
    least_squares    ½E[(r − 1)²] + ½E[t²]                  ½E[(t − 1)²]        no

Relativistic losses, in which the generator sees reals as well, are in `objectives.relativistic`.

softplus(t) = −log(1 − σ(t)) and softplus(−t) = −log σ(t), so the first two are the cross-entropy losses without the
overflow of a sigmoid followed by a logarithm.

"Zero-sum" means that L_D + L_G does not depend on the generator: the losses are opposites up to the term in r. Both
players' cross terms are then those of the zero-sum game f = L_G − E[…r…].

"Separable" means that L_D is a function of r plus a function of t; then the generator's cross term needs no reals. An
objective of your own declares it by a class attribute `separable = True`; without it, reals are evaluated. One whose
`generator_loss` has an argument `real_logits` gets them.

References: Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, equation 1 and section 3 (minimax,
non-saturating); Arjovsky, Chintala and Bottou, "Wasserstein Generative Adversarial Networks", ICML 2017, equation 2;
Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017, equation 9 (least squares); Salimans et al.,
"Improved Techniques for Training GANs", NeurIPS 2016, section 3.4 (one-sided label smoothing); Lim and Ye, "Geometric
GAN", 2017, and Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018, equations 16 and
17 (hinge).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final, runtime_checkable

from torch import Tensor
from torch.nn.functional import relu, softplus

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.objectives.relativistic import RelativisticAverage, RelativisticPairing

__all__ = [
    "AdversarialObjective",
    "Hinge",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "Wasserstein",
    "adversarial_objective",
    "real_logits_argument",
]


@runtime_checkable
class AdversarialObjective(Protocol):
    """The methods of an object to be used as `objective=`.

    Logits are of any shape; there may be more or fewer fakes than reals. `generator_loss(fake_logits, real_logits)`
    gets those of the reals as well.

    Example:
        >>> class Quadratic:
        ...     def generator_loss(self, fake_logits):
        ...         return (fake_logits - 1).square().mean()
        ...     def discriminator_loss(self, real_logits, fake_logits):
        ...         return (real_logits - 1).square().mean() + fake_logits.square().mean()
        >>> type(adversarial_objective(Quadratic())).__name__
        'Quadratic'
    """

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """The scalar that the generator minimises."""
        ...

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The scalar that the discriminator minimises."""
        ...


@final
@dataclass(frozen=True)
class NonSaturating:
    """L_D = E[softplus(−r)] + E[softplus(t)],  L_G = E[softplus(−t)]: the usual cross-entropy GAN.

    The generator's gradient does not vanish where the discriminator is sure that a sample is fake.

    Args:
        smoothing: s in [0, 1): reals are labelled 1 − s in L_D, whose first term is then E[softplus(−r)] + s·E[r].

    Raises:
        ConfigurationError: a smoothing out of its range.

    Example:
        >>> import torch
        >>> loss = NonSaturating().generator_loss(torch.tensor([0.0, -100.0]))
        >>> round(loss.item(), 4)  # (log 2 + 100) / 2
        50.3466
    """

    zero_sum: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_arguments(NonSaturating, vars(self))
        if not 0 <= self.smoothing < 1:
            raise ConfigurationError(
                f"Cannot smooth labels because smoothing must be in [0, 1), as 0.1 (got {self.smoothing})"
            )

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """E[softplus(−t)]."""
        return softplus(-fake_logits).mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[softplus(−r)] + E[softplus(t)], and s·E[r]."""
        loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        # (1 − s)·softplus(−r) + s·softplus(r), because softplus(r) = r + softplus(−r)
        return loss + self.smoothing * real_logits.mean() if self.smoothing else loss


@final
@dataclass(frozen=True)
class Minimax:
    """L_D = E[softplus(−r)] + E[softplus(t)],  L_G = −E[softplus(t)] = E[log(1 − σ(t))]: the zero-sum game.

    The generator's gradient vanishes where the discriminator is sure that a sample is fake.

    Example:
        >>> import torch
        >>> real, fake = torch.tensor([1.0]), torch.tensor([0.5, -2.0])
        >>> objective = Minimax()
        >>> total = objective.discriminator_loss(real, fake) + objective.generator_loss(fake)
        >>> round(total.item(), 4), round(torch.nn.functional.softplus(-real).item(), 4)
        (0.3133, 0.3133)
    """

    zero_sum: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """−E[softplus(t)]."""
        return -softplus(fake_logits).mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[softplus(−r)] + E[softplus(t)]."""
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()


@final
@dataclass(frozen=True)
class Hinge:
    """L_D = E[max(0, 1 − r)] + E[max(0, 1 + t)],  L_G = −E[t].

    Samples beyond the margin have no gradient in L_D; the slope of L_G is one everywhere.

    Example:
        >>> import torch
        >>> Hinge().discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.5])).item()
        1.25
    """

    zero_sum: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """−E[t]."""
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[max(0, 1 − r)] + E[max(0, 1 + t)]."""
        return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


@final
@dataclass(frozen=True)
class Wasserstein:
    """L_D = −E[r] + E[t],  L_G = −E[t]: zero-sum, and linear in the logits.

    It estimates the distance of that name if the discriminator has a bounded Lipschitz constant, for example by
    spectral normalisation.

    Example:
        >>> import torch
        >>> Wasserstein().discriminator_loss(torch.tensor([2.0]), torch.tensor([0.5])).item()
        -1.5
    """

    zero_sum: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """−E[t]."""
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """−E[r] + E[t]."""
        return fake_logits.mean() - real_logits.mean()


@final
@dataclass(frozen=True)
class LeastSquares:
    """L_D = ½E[(r − 1)²] + ½E[t²],  L_G = ½E[(t − 1)²].

    The loss of CycleGAN and of vocoders; the slope grows with the distance from the label.

    Example:
        >>> import torch
        >>> LeastSquares().discriminator_loss(torch.tensor([3.0]), torch.tensor([1.0])).item()
        2.5
    """

    zero_sum: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """½E[(t − 1)²]."""
        return 0.5 * (fake_logits - 1).square().mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """½E[(r − 1)²] + ½E[t²]."""
        return 0.5 * ((real_logits - 1).square().mean() + fake_logits.square().mean())


_REGISTRY: dict[str, Any] = {
    "non_saturating": NonSaturating(),
    "minimax": Minimax(),
    "hinge": Hinge(),
    "wasserstein": Wasserstein(),
    "least_squares": LeastSquares(),
    "relativistic_pairing": RelativisticPairing(),
    "relativistic_average": RelativisticAverage(),
}


def real_logits_argument(generator_loss: Callable[..., Tensor]) -> inspect.Parameter | None:
    """Return the argument `real_logits` of a generator's loss, which is then handed the logits of the reals, or None.

    Args:
        generator_loss: a function or a bound method.

    Example:
        >>> real_logits_argument(Hinge().generator_loss) is None
        True
    """
    # methods are made anew at every access, and reading arguments takes longer than a small layer
    return _real_logits(getattr(generator_loss, "__func__", generator_loss))


@functools.lru_cache
def _real_logits(function: Callable[..., Tensor]) -> inspect.Parameter | None:
    return inspect.signature(function).parameters.get("real_logits")


def adversarial_objective(objective: str | AdversarialObjective) -> AdversarialObjective:
    """The objective of that name; an object that is one already is returned as it is.

    Args:
        objective: "non_saturating", "minimax", "hinge", "wasserstein", "least_squares", "relativistic_pairing",
            "relativistic_average", or an object with the methods `generator_loss(fake_logits)` and
            `discriminator_loss(real_logits, fake_logits)`.

    Raises:
        ConfigurationError: an unknown name, or an object without these methods.

    Example:
        >>> adversarial_objective("hinge")
        Hinge()
    """
    if isinstance(objective, str):
        if objective not in _REGISTRY:
            raise ConfigurationError(
                f"Cannot find the objective because no such name is known; pass one of {', '.join(_REGISTRY)}, or an "
                f"object with generator_loss and discriminator_loss (got {objective!r})."
            )
        named: AdversarialObjective = _REGISTRY[objective]
        return named
    if isinstance(objective, type):
        raise ConfigurationError(
            f"Cannot use a class as an objective because its methods need an instance; pass {objective.__name__}() "
            f"(got the class {objective.__name__})."
        )
    if not isinstance(objective, AdversarialObjective):
        raise ConfigurationError(
            "Cannot use this object as an objective because it lacks generator_loss(fake_logits) or "
            f"discriminator_loss(real_logits, fake_logits); give it both, or pass one of {', '.join(_REGISTRY)} "
            f"(got {type(objective).__name__})."
        )
    return objective

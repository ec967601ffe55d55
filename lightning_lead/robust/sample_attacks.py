"""Attacks with one perturbation per sample, new in each batch: PGD, FGSM, and Free adversarial training.

    ℓ∞:  δ ← P(δ + α·sign ∇_δ L),   P onto max(−ε, low − x) ≤ δ ≤ min(ε, high − x)
    ℓ2:  δ ← P(δ + α·∇_δ L/‖∇_δ L‖), P scales δ to ‖δ‖ ≤ ε and then cuts off what leaves the range of the images

    PGD    K turns of the attack, then one of the network, by the last δ
    FGSM   PGD with K = 1, a random start and α = 1.25 ε
    Free   m turns of both players together on one batch, each by the gradients at the same point

What LEAD remembers of δ, its displacement, begins with δ's start on a batch and ends with the batch. So the network
sees δ's whole way on this batch, and δ's first turn sees the network's last step.

References: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (PGD); Wong, Rice
and Kolter, "Fast is better than free", ICLR 2020, algorithm 3 (FGSM); Shafahi et al., "Adversarial Training for Free!",
NeurIPS 2019, algorithm 1, where δ is carried over from batch to batch, and here begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, require_number
from lightning_lead._types import Play
from lightning_lead.constraints import AbstractConstraint, L2Ball
from lightning_lead.constraints.sets import box_of
from lightning_lead.robust.base import AbstractAttack, cannot_play
from lightning_lead.robust.sign_descent import SignDescent, check_norm, sample_norms

__all__ = ["AbstractSampleAttack", "FGSMAttack", "FreeAttack", "PGDAttack", "check_epsilon"]


def check_epsilon(epsilon: float) -> float:
    """Return a radius of perturbations as a float, or raise a ConfigurationError: > 0 and finite."""
    why = "it is the largest size of a perturbation, in the units of the images"
    return require_number("epsilon", epsilon, low=0.0, high=float("inf"), why=why, closed=False)


@final
class _BallInRange(AbstractConstraint):
    """‖δ‖ ≤ ε for each sample, and x + δ in the range; both hold after the second step, as it only shortens δ."""

    def __init__(self, radius: float, low: Tensor, high: Tensor) -> None:
        self._ball, self._box = L2Ball(radius, per_sample=True), box_of(low, high)

    def project(self, tensor: Tensor) -> Tensor:
        return self._box.project(self._ball.project(tensor))


class AbstractSampleAttack(AbstractAttack):
    """A perturbation `delta` of each sample of a batch, which begins anew with the next batch.

    Args:
        epsilon: largest size of a perturbation, > 0, in the units of the images.
        step_size: of one turn, > 0, in the same units.
        norm: in which ε and the step are measured, "linf" or "l2".
        random_start: begin with a random perturbation; else with none.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> attack = PGDAttack(0.1)  # a final subclass
        >>> attack.renew(torch.zeros(2, 3), (-1.0, 1.0), None)
        >>> attack.delta.shape, bool(attack.delta.abs().max() <= 0.1)
        (torch.Size([2, 3]), True)
    """

    renewed = True

    def __init__(
        self, epsilon: float, *, step_size: float, norm: Literal["linf", "l2"] = "linf", random_start: bool = True
    ) -> None:
        super().__init__()
        self.epsilon = check_epsilon(epsilon)
        why = "it is the length of an attack's step, in the units of the images"
        self.step_size = require_number("step_size", step_size, low=0.0, high=float("inf"), why=why, closed=False)
        check_norm(norm)
        self.norm, self.random_start = norm, random_start
        self.delta = nn.Parameter(torch.zeros(1))
        self._bounds: AbstractConstraint | None = None

    def forward(self, images: Tensor, rows: Tensor | None, value_range: tuple[float, float]) -> Tensor:
        """x + δ, by the rows of δ that belong to the samples."""
        return images + (self.delta[: len(images)] if rows is None else self.delta[rows])

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """`SignDescent` in the attack's norm, per sample."""
        return SignDescent(groups, norm=self.norm, per_sample=True)

    def constraint(self) -> AbstractConstraint | None:
        """Return the bounds of the batch that was last met."""
        return self._bounds

    def meet(self, images: Tensor, value_range: tuple[float, float]) -> None:
        """Learn the bounds of a batch."""
        low, high = value_range[0] - images, value_range[1] - images
        if self.norm == "linf":
            self._bounds = box_of(low.clamp(-self.epsilon, 0), high.clamp(0, self.epsilon))
        else:
            self._bounds = _BallInRange(self.epsilon, low.clamp(max=0), high.clamp(min=0))

    def renew(self, images: Tensor, value_range: tuple[float, float], start: float | None) -> None:
        """Begin a batch: at zero, at random in the ball, or with the normal start of a loss; by torch's generator."""
        self.meet(images, value_range)
        assert self._bounds is not None
        self.delta.data = self._bounds.project(self._start(images, start))

    def _start(self, images: Tensor, start: float | None) -> Tensor:
        if start is not None:
            return start * torch.randn_like(images)
        if not self.random_start:
            return torch.zeros_like(images)
        if self.norm == "linf":
            return torch.empty_like(images).uniform_(-self.epsilon, self.epsilon)
        drawn = torch.randn_like(images)
        lengths = self.epsilon * torch.rand_like(sample_norms(drawn))
        return lengths * drawn / sample_norms(drawn)

    def take_shape(self, saved: Mapping[str, Any], prefix: str = "") -> None:
        """Take the shape of a checkpoint, which was saved on a batch of its own size.

        Args:
            saved: name -> tensor.
            prefix: before the attack's own names.
        """
        delta = saved.get(f"{prefix}delta")
        if isinstance(delta, Tensor) and delta.shape != self.delta.shape:
            self.delta.data = delta.new_zeros(delta.shape, device=self.delta.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self.take_shape(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


@final
class PGDAttack(AbstractSampleAttack):
    """Projected gradient descent: `steps` turns of the attack before the network's own.

    Args:
        epsilon: largest size of a perturbation, > 0, in the units of the images.
        step_size: of one turn, > 0; default 2.5 ε/steps, with which every edge of the ball can be reached.
        steps: K, ≥ 1.
        norm: "linf" or "l2".
        random_start: begin at random in the ball; else at zero.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> PGDAttack(8 / 255, steps=10).turns("alternating")[-2:]
        [('attack',), ('network',)]
    """

    def __init__(
        self,
        epsilon: float,
        *,
        step_size: float | None = None,
        steps: int = 10,
        norm: Literal["linf", "l2"] = "linf",
        random_start: bool = True,
    ) -> None:
        check_arguments(PGDAttack, locals())
        check_positive(steps=steps)
        step_size = 2.5 * check_epsilon(epsilon) / steps if step_size is None else step_size
        super().__init__(epsilon, step_size=step_size, norm=norm, random_start=random_start)
        self.steps = steps

    def turns(self, play: Play) -> list[tuple[str, ...]]:
        """K of the attack, then the network's."""
        return _one_after_the_other(self, play, self.steps)


@final
class FGSMAttack(AbstractSampleAttack):
    """One step of the length of the ball from a random start, as fast adversarial training takes it.

    Args:
        epsilon: largest size of a perturbation, > 0, in the units of the images.
        step_size: of the step, > 0; default 1.25 ε.
        random_start: begin at random in the ball; else at zero, as the fast gradient sign method of 2015.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> FGSMAttack(8 / 255).turns("alternating")
        [('attack',), ('network',)]
    """

    def __init__(self, epsilon: float, *, step_size: float | None = None, random_start: bool = True) -> None:
        check_arguments(FGSMAttack, locals())
        step_size = 1.25 * check_epsilon(epsilon) if step_size is None else step_size
        super().__init__(epsilon, step_size=step_size, random_start=random_start)

    def turns(self, play: Play) -> list[tuple[str, ...]]:
        """One of the attack, then the network's."""
        return _one_after_the_other(self, play, 1)


@final
class FreeAttack(AbstractSampleAttack):
    """Free adversarial training: both players move together, `replays` times on each batch, in simultaneous play.

    Args:
        epsilon: largest size of a perturbation, > 0, in the units of the images; the paper's step is as long.
        replays: m, turns on one batch, ≥ 1; divide the number of epochs by it.
        step_size: of one turn, > 0; default ε.
        random_start: begin at random in the ball; else at zero.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> FreeAttack(8 / 255, replays=2).turns("simultaneous")
        [('attack', 'network'), ('attack', 'network')]
    """

    def __init__(
        self, epsilon: float, *, replays: int = 8, step_size: float | None = None, random_start: bool = False
    ) -> None:
        check_arguments(FreeAttack, locals())
        check_positive(replays=replays)
        step_size = check_epsilon(epsilon) if step_size is None else step_size
        super().__init__(epsilon, step_size=step_size, random_start=random_start)
        self.replays = replays

    def turns(self, play: Play) -> list[tuple[str, ...]]:
        """Return m turns of both."""
        if play != "simultaneous":
            why = "both players move by the gradients at one point; use game='SimultaneousGDA', or PGDAttack"
            raise cannot_play(self, play, why)
        return [("attack", "network")] * self.replays


def _one_after_the_other(attack: AbstractAttack, play: Play, steps: int) -> list[tuple[str, ...]]:
    if play == "simultaneous":
        why = (
            "the network answers the attack's last step, so that the steps of a batch come one after the other; use a "
            "game in alternating play, or FreeAttack, whose players move together"
        )
        raise cannot_play(attack, play, why)
    return [*[("attack",)] * steps, ("network",)]

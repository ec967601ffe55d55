"""Attacks that remember: one perturbation of all images, a patch, and a network that makes perturbations.

    universal    x' = clip(x + δ),               ‖δ‖ ≤ ε
    patch        x' = x with p pasted at a place drawn for each sample,        p in the range of the images
    generated    x' = clip(x + ε·tanh g(x))

Their parameters stay from batch to batch, as the network's do. So they are two players as in any other game here, and
LEAD's displacement is each one's move since the other's last one.

References: Moosavi-Dezfooli et al., "Universal Adversarial Perturbations", CVPR 2017; Shafahi et al., "Universal
Adversarial Training", AAAI 2020, algorithm 3 (universal perturbation and network, in turns); Brown et al., "Adversarial
Patch", 2017, equation 1; Baluja and Fischer, "Adversarial Transformation Networks", AAAI 2018 (a network of attacks).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_positive, check_range, require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead.constraints import AbstractConstraint, Box, L2Ball, LInfBall
from lightning_lead.robust.base import AbstractAttack
from lightning_lead.robust.sample_attacks import check_epsilon
from lightning_lead.robust.sign_descent import SignDescent, check_norm

__all__ = ["Patch", "PerturbationNetwork", "UniversalPerturbation"]


def _rate(step_size: float) -> float:
    why = "it is the learning rate of the attack"
    return require_number("step_size", step_size, low=0.0, high=float("inf"), why=why, closed=False)


def _check_fits(attack: AbstractAttack, images: Tensor, fits: bool, shape: str) -> None:
    if not fits:
        raise ConfigurationError(
            f"Cannot attack the images by {type(attack).__name__} because their shapes do not fit; pass {shape} "
            f"(got {tuple(images.shape[1:])})"
        )


@final
class UniversalPerturbation(AbstractAttack):
    """One perturbation for all images, which begins at zero and is the same on all ranks.

    Args:
        shape: of an image, as (3, 32, 32).
        epsilon: largest size of the perturbation, > 0, in the units of the images.
        norm: in which it is measured, "linf" or "l2".
        step_size: of a turn, > 0, in the units of the images; default ε/10.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> attack = UniversalPerturbation((1, 8, 8), 0.1)
        >>> attack(torch.zeros(2, 1, 8, 8), None, (-1.0, 1.0)).shape, attack.constraint()
        (torch.Size([2, 1, 8, 8]), LInfBall(0.1))
    """

    def __init__(
        self,
        shape: Sequence[int],
        epsilon: float,
        *,
        norm: Literal["linf", "l2"] = "linf",
        step_size: float | None = None,
    ) -> None:
        check_arguments(UniversalPerturbation, locals())
        super().__init__()
        if not shape or any(size < 1 for size in shape):
            raise ConfigurationError(
                f"Cannot perturb images of the shape {tuple(shape)}; pass that of one image, as (3, 32, 32)"
            )
        self.epsilon = check_epsilon(epsilon)
        check_norm(norm)
        self.norm, self.step_size = norm, _rate(self.epsilon / 10 if step_size is None else step_size)
        self.delta = nn.Parameter(torch.zeros(*shape))

    def forward(self, images: Tensor, rows: Tensor | None, value_range: tuple[float, float]) -> Tensor:
        """clip(x + δ)."""
        _check_fits(self, images, images.shape[1:] == self.delta.shape, f"shape={tuple(self.delta.shape)}")
        return (images + self.delta).clamp(*value_range)

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """`SignDescent` in the attack's norm, of the whole perturbation."""
        return SignDescent(groups, norm=self.norm)

    def constraint(self) -> AbstractConstraint:
        """Return the ball of radius ε."""
        return LInfBall(self.epsilon) if self.norm == "linf" else L2Ball(self.epsilon)


@final
class Patch(AbstractAttack):
    """A square that is pasted over a part of each image, at a place that torch's generator draws for each sample.

    Places are part of the private noise of a game step: a repeat of a loss pastes at the same ones. The patch begins in
    the middle of the range.

    Args:
        size: pixels along one side, ≥ 1.
        channels: of an image, ≥ 1.
        value_range: of the patch, which is that of the images.
        step_size: of a turn, > 0, in the units of the images.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> patch = Patch(3, 1, value_range=(-1.0, 1.0))
        >>> pasted = patch(torch.ones(2, 1, 8, 8), None, (-1.0, 1.0))
        >>> (pasted == 0).sum((1, 2, 3))
        tensor([9, 9])
    """

    def __init__(
        self,
        size: int,
        channels: int = 3,
        *,
        value_range: tuple[float, float] = (-1.0, 1.0),
        step_size: float = 0.05,
    ) -> None:
        check_arguments(Patch, locals())
        super().__init__()
        check_positive(size=size, channels=channels)
        self.value_range, self.step_size = check_range(value_range), _rate(step_size)
        self.pixels = nn.Parameter(torch.full((channels, size, size), sum(self.value_range) / 2))

    def forward(self, images: Tensor, rows: Tensor | None, value_range: tuple[float, float]) -> Tensor:
        """x outside of the patch, and p inside."""
        channels, size, _ = self.pixels.shape
        fits = images.ndim == 4 and images.shape[1] == channels and min(images.shape[2:]) >= size
        _check_fits(self, images, fits, f"images of {channels} channels and at least {size}×{size} pixels")
        if tuple(map(float, value_range)) != self.value_range:
            raise ConfigurationError(
                "Cannot paste the patch because its values are not those of the images; pass one value_range to both "
                f"(got {self.value_range} and {value_range})"
            )
        height, width = images.shape[2:]
        top, left = self.places(len(images), height - size + 1, width - size + 1, images.device)
        down = torch.arange(height, device=images.device) - top[:, None]  # (n, height), 0 in the patch's first row
        right = torch.arange(width, device=images.device) - left[:, None]
        inside = ((down >= 0) & (down < size))[:, :, None] & ((right >= 0) & (right < size))[:, None, :]
        spread = self.pixels[:, down.clamp(0, size - 1)[:, :, None], right.clamp(0, size - 1)[:, None, :]]
        return torch.where(inside[:, None], spread.transpose(0, 1), images)

    def places(self, count: int, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw the first row and the first column of each sample's patch, (n,) each.

        Args:
            count: n.
            rows: how many rows a patch can begin in.
            columns: how many columns.
            device: where to draw.
        """
        return torch.randint(rows, (count,), device=device), torch.randint(columns, (count,), device=device)

    def constraint(self) -> AbstractConstraint:
        """Return the range of the images."""
        return Box(*self.value_range)


@final
class PerturbationNetwork(AbstractAttack):
    """A network that makes a perturbation for each image: δ(x) = ε·tanh g(x).

    Its optimizer is Adam unless the module is given another one. Where it has statistics of batches, they move in its
    own turns alone.

    Args:
        generator: images (n, …) -> tensors of their shape.
        epsilon: largest absolute value of a perturbation, > 0, in the units of the images.
        step_size: Adam's learning rate, > 0.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> attack = PerturbationNetwork(nn.Conv2d(1, 1, 3, padding=1), 0.1)
        >>> images = torch.zeros(2, 1, 8, 8)
        >>> bool((attack(images, None, (-1.0, 1.0)) - images).abs().max() <= 0.1)
        True
    """

    def __init__(self, generator: nn.Module, epsilon: float, *, step_size: float = 1e-3) -> None:
        check_arguments(PerturbationNetwork, locals())
        super().__init__()
        self.epsilon, self.step_size = check_epsilon(epsilon), _rate(step_size)
        self.generator = generator

    def forward(self, images: Tensor, rows: Tensor | None, value_range: tuple[float, float]) -> Tensor:
        """clip(x + ε·tanh g(x))."""
        made = self.generator(images)
        _check_fits(self, images, made.shape == images.shape, f"a generator of images, not of {tuple(made.shape[1:])}")
        return (images + self.epsilon * torch.tanh(made)).clamp(*value_range)

    def optimizer(self, groups: Iterable[Any]) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(groups)

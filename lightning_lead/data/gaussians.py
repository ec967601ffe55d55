"""Mixtures of Gaussians in the plane, where one can count which modes a generator finds.

    ring    8 modes on a circle of radius ρ:  μ_k = ρ (cos 2πk/8, sin 2πk/8)
    grid    25 modes on a 5×5 grid from −ρ to ρ
    x = μ_k + σ ε,  ε ~ N(0, 1),  all modes equally often

A sample is *of high quality* if it lies within 3σ of its nearest mode (true samples: 1 − e^{−9/2} = 98.9 %), and a mode
is *covered* if it has a sample of high quality.

References: Metz et al., "Unrolled Generative Adversarial Networks", ICLR 2017 (ring; radius 2, σ = 0.02, which most
experiments since have copied); Srivastava et al., "VEEGAN", NeurIPS 2017, and Lin et al., "PacGAN", NeurIPS 2018 (grid;
neighbours 2 apart, σ = 0.05, and both measures).
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._base import AbstractTensorDataModule

__all__ = ["GaussiansDataModule", "ModeCoverage", "modes_covered"]


class ModeCoverage(NamedTuple):
    """The result of `modes_covered`.

    Example:
        >>> "covered" in ModeCoverage._fields
        True
    """

    covered: int  # modes with enough samples of high quality
    high_quality: float  # share of all samples, in [0, 1]


class _Layout(NamedTuple):
    modes: Tensor  # (k, 2), of half-width one
    radius: float
    std: float


def _layouts() -> dict[str, _Layout]:
    angles = 2 * math.pi * torch.arange(8) / 8
    side = torch.linspace(-1, 1, 5)
    return {
        "ring": _Layout(torch.stack([angles.cos(), angles.sin()], dim=1), radius=2.0, std=0.02),
        "grid": _Layout(torch.cartesian_prod(side, side), radius=4.0, std=0.05),
    }


def modes_covered(points: Tensor, modes: Tensor, *, std: float, within: float = 3.0, at_least: int = 1) -> ModeCoverage:
    """Count the modes that have samples, and the share of samples that are near one.

    Args:
        points: (n, 2), n ≥ 1. One that is not finite is of low quality.
        modes: (k, 2).
        std: σ of each mode, > 0.
        within: radius of high quality in units of σ, > 0.
        at_least: samples of high quality that make a mode count as covered, ≥ 1.

    Raises:
        ConfigurationError: points or modes of another shape, or a setting out of its range.

    Example:
        >>> modes = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> modes_covered(torch.tensor([[0.0, 0.1], [0.0, 0.0], [0.5, 0.0], [0.1, 0.0]]), modes, std=0.05)
        ModeCoverage(covered=1, high_quality=0.75)
    """
    for name, tensor in {"points": points, "modes": modes}.items():
        if tensor.ndim != 2 or tensor.shape[1] != 2 or len(tensor) == 0:
            raise ConfigurationError(
                f"Cannot count modes because {name} must be points in the plane; pass shape (n, 2) with n ≥ 1 "
                f"(got {tuple(tensor.shape)})."
            )
    if not std > 0 or not within > 0:
        raise ConfigurationError(
            f"Cannot count modes because distances are measured in σ; pass std > 0 and within > 0 "
            f"(got {std} and {within})."
        )
    check_count("a mode count", "at_least", at_least)
    # float64 and subtraction: torch.cdist may multiply out, and the small difference of large squares is lost
    points, modes = points.detach().double(), modes.to(points.device).double()
    distances, nearest = (points[:, None] - modes).norm(dim=2).min(dim=1)  # (n,), (n,)
    good = distances <= within * std  # False for what is not finite
    hits = torch.bincount(nearest[good], minlength=len(modes))
    return ModeCoverage(int((hits >= at_least).sum()), good.double().mean().item())


@final
class GaussiansDataModule(AbstractTensorDataModule):
    """Batches of points (n, 2), float32, from a mixture of 8 Gaussians on a ring or 25 on a grid.

    The points are drawn once, from the seed; each mode has the same number of them, give or take one.

    Args:
        layout: "ring" or "grid".
        num_points: size of the data set, ≥ 1; the default gives 200 batches an epoch.
        std: σ of each mode, > 0; default 0.02 on the ring and 0.05 on the grid.
        radius: half the width of the layout, > 0; default 2 for the ring and 4 for the grid.
        batch_size: points per training batch and rank, ≥ 1; the last batch is dropped if it is not full.
        seed: of the points and of their order, ≥ 0.
        num_workers: loader processes, ≥ 0. The points lie in memory, so 0 is usually fastest.
        num_predict: samples that `trainer.predict` makes, ≥ 1.

    Attributes:
        modes: (k, 2), the centres.
        sample_shape: (2,).
        num_classes: None; there are no labels.

    Raises:
        ConfigurationError: an unknown layout or a setting out of its range.

    Example:
        >>> ring = GaussiansDataModule(num_points=4096)
        >>> next(iter(ring.train_dataloader()))[0].shape
        torch.Size([256, 2])
        >>> modes_covered(ring.reference_points(), ring.modes, std=ring.std).covered
        8
    """

    sample_shape: tuple[int, ...] = (2,)
    num_classes: int | None = None

    def __init__(
        self,
        *,
        layout: str = "ring",
        num_points: int = 51_200,
        std: float | None = None,
        radius: float | None = None,
        batch_size: int = 256,
        seed: int = 0,
        num_workers: int = 0,
        num_predict: int = 64,
    ) -> None:
        check_arguments(GaussiansDataModule, locals())
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers, num_predict=num_predict)
        layouts = _layouts()
        if layout not in layouts:
            raise ConfigurationError(
                f"Cannot build GaussiansDataModule because the layout is unknown; pass one of {', '.join(layouts)} "
                f"(got {layout!r})."
            )
        check_count("GaussiansDataModule", "num_points", num_points)
        chosen = layouts[layout]
        self.layout, self.num_points = layout, num_points
        self.std = chosen.std if std is None else std
        self.radius = chosen.radius if radius is None else radius
        for name, value in {"std": self.std, "radius": self.radius}.items():
            if not 0 < value < math.inf:
                raise ConfigurationError(
                    f"Cannot build GaussiansDataModule because {name} is a length; pass a number > 0 (got {value!r})."
                )
        self.modes = chosen.modes * self.radius  # (k, 2)

    def load(self) -> tuple[Tensor, ...]:
        """The points alone."""
        noise = torch.randn(self.num_points, 2, generator=torch.Generator().manual_seed(self.seed))
        return (self.modes[torch.arange(self.num_points) % len(self.modes)] + self.std * noise,)

    def reference_points(self) -> Tensor:
        """All points (num_points, 2)."""
        return self.tensors()[0]

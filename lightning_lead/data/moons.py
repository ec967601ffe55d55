"""Inter-twinning moons: labelled ones, and the same shape turned by an angle, whose labels are to be found.

    source  x = 2 (m − m̄),  m two half circles with noise            target  x' = R(angle) 2 (m' − m̄),  m' drawn anew

Reference: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, section 5.1.1.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lightning_lead._arguments import check_arguments
from lightning_lead._checks import check_count, require_number
from lightning_lead._errors import ConfigurationError
from lightning_lead.data._domain_base import AbstractDomainDataModule, DomainSamples

__all__ = ["MoonsDataModule", "check_angle", "check_scikit_learn", "turn_matrix"]


def check_scikit_learn(owner: str) -> None:
    """Refuse to go on where scikit-learn, an extra, is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigurationError(
            f"Cannot build {owner} because scikit-learn, which has the data, is not installed; run "
            "`pip install lightning-lead[digits]` (got no module named sklearn)."
        )


def check_angle(angle: float, why: str) -> float:
    """Return an angle in degrees as a float; refuse one that turns nothing."""
    angle = require_number("angle", angle, low=-360.0, high=360.0, why=why)
    if angle % 360 == 0:
        raise ConfigurationError(
            f"Cannot use angle because the target would be the source, a test domain among the training domains; pass "
            f"another number of degrees (got {angle!r})"
        )
    return angle


def turn_matrix(angle: float) -> Tensor:
    """Return the matrix (2, 2), float64, that turns columns counterclockwise by an angle in degrees."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


@final
class MoonsDataModule(AbstractDomainDataModule):
    """Batches (points, labels, domains) of two moons and of turned ones: float32 (n, 2), int64 (n,), int64 (n,).

    Labels are 0 and 1, and −1 for the turned moons ("target", domain 1), half of each batch. Their labels are known for
    scoring alone; points that are scored are those that are seen without a label, as in the paper.

    Args:
        angle: of the target, degrees, not 0.
        num_points: of each domain, ≥ 2.
        noise: standard deviation of what is added to points before they are scaled, ≥ 0.
        batch_size: samples per training batch and rank, even, or None for all of them.
        validation: share of the source that is kept for selection, in [0, 0.9].
        seed: of the points, the parts and the order, ≥ 0.
        num_workers: loader processes, ≥ 0.

    Attributes:
        domains: ("source", "target"); the second is `held_out`.
        num_groups: 2.
        num_classes: 2.

    Raises:
        ConfigurationError: a setting out of its range, or no scikit-learn.

    Example:
        >>> moons = MoonsDataModule(batch_size=64)
        >>> points, labels, domains = next(iter(moons.train_dataloader()))
        >>> points.shape, labels[1::2].unique().tolist(), domains.bincount().tolist()
        (torch.Size([64, 2]), [-1], [32, 32])
    """

    num_classes: int = 2

    def __init__(
        self,
        *,
        angle: float = 35.0,
        num_points: int = 300,
        noise: float = 0.05,
        batch_size: int | None = 64,
        validation: float = 0.2,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_arguments(MoonsDataModule, locals())
        super().__init__(
            domains=("source", "target"),
            held_out="target",
            batch_size=batch_size,
            validation=validation,
            seed=seed,
            num_workers=num_workers,
            adapts=True,
        )
        check_scikit_learn("MoonsDataModule")
        check_count("MoonsDataModule", "num_points", num_points, least=2)
        self.angle = check_angle(angle, "it is the angle of the target in degrees")
        self.noise = require_number("noise", noise, low=0.0, high=10.0, why="it is a standard deviation")
        self.num_points = num_points

    def load(self) -> Sequence[DomainSamples]:
        """The moons, and others that are turned."""
        from sklearn.datasets import make_moons  # an extra

        # two sets of points that share none of their noise
        drawn = [
            make_moons(self.num_points, noise=self.noise, random_state=(2 * self.seed + k) % 2**32) for k in range(2)
        ]
        centre = torch.from_numpy(drawn[0][0]).mean(0)
        found = []
        for (points, labels), turn in zip(drawn, (torch.eye(2).double(), turn_matrix(self.angle)), strict=True):
            placed = 2 * (torch.from_numpy(points) - centre) @ turn.T
            found.append(DomainSamples(placed.float(), torch.from_numpy(labels).to(torch.int64)))
        return found

"""The best hyperparameters of a rule on a game, by search: a grid, refined by Nelder and Mead, on the closed form.

    minimise over settings   ρ = max over σ of |z|^(1/period),      z as in `analysis.closed_forms`
    game steps to shrink the distance by ε:   log ε / log ρ

A family is a rule with the hyperparameters that its rate depends on. Step sizes are searched in units of 1/√(L² + h²),
penalty weights of 1/L. One evaluation is one gradient or one Hessian product. What is found is an upper bound on the
best rate: the search is local, from several points.

Reference: Nelder and Mead, "A simplex method for function minimization", 1965.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._scientific import scipy_module
from lightning_lead._types import Play
from lightning_lead.analysis.closed_forms import eigenvalues
from lightning_lead.analysis.families import FAMILIES, Family
from lightning_lead.games.bilinear import BilinearGame
from lightning_lead.games.quadratic import QuadraticGame
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["BestSettings", "Spectrum", "best_settings", "stability_region"]


class Spectrum(NamedTuple):
    """The spectrum of a quadratic game, which decides rates: singular values of the coupling, and curvature.

    Example:
        >>> Spectrum.between(1.0, 4.0, points=3).sigma
        tensor([1., 2., 4.], dtype=torch.float64)
    """

    sigma: Tensor  # (s,)
    curvature: float = 0.0

    @classmethod
    def of(cls, game: BilinearGame | QuadraticGame) -> Spectrum:
        """A game's own; a coupling that is not square has zeros too.

        Args:
            game: bilinear or quadratic.
        """
        sigma = torch.linalg.svdvals(game.coupling.double())
        if game.dimensions[0] != game.dimensions[1]:
            sigma = torch.cat([sigma, sigma.new_zeros(1)])
        return cls(sigma, game.curvature if isinstance(game, QuadraticGame) else 0.0)

    @classmethod
    def between(cls, smallest: float, largest: float, curvature: float = 0.0, *, points: int = 13) -> Spectrum:
        """All of [m, L], stood for by values that are evenly spread on a logarithmic scale.

        Args:
            smallest: m > 0.
            largest: L ≥ m.
            curvature: h ≥ 0.
            points: how many, ≥ 2.
        """
        return cls(torch.logspace(0, math.log10(largest / smallest), points, dtype=torch.float64) * smallest, curvature)

    def radius(self, rule: AbstractGameRule, *, lr: float, play: Play | None = None, momentum: float = 0.0) -> float:
        """The factor per game step.

        Args:
            rule: with a closed form.
            lr: step size, > 0.
            play: default the rule's own.
            momentum: of SGD.
        """
        found = eigenvalues(rule, sigma=self.sigma, curvature=self.curvature, lr=lr, play=play, momentum=momentum)
        return float(found.abs().max().item() ** (1 / rule.period))


class BestSettings(NamedTuple):
    """The result of a search.

    Example:
        >>> from lightning_lead.rules import GradientPlay
        >>> BestSettings("gda", {"lr": 0.1}, GradientPlay(), "alternating", 0.5, 2, 1e-6).steps
        20
    """

    family: str
    settings: dict[str, float]  # lr, and the family's own
    rule: AbstractGameRule
    play: Play
    radius: float  # per game step
    evaluations: int | None  # per game step, of both players; None where it depends on the data, as in a solve
    reduction: float

    @property
    def steps(self) -> float:
        """Game steps until the distance has shrunk by the reduction, at this rate; infinite if it does not shrink."""
        if self.radius >= 1 - 1e-9:  # a search that ends at 1 has found nothing
            return math.inf
        return math.ceil(math.log(self.reduction) / math.log(self.radius)) if self.radius > 0 else 1

    @property
    def work(self) -> float | None:
        """Evaluations until then."""
        return None if self.evaluations is None else self.evaluations * self.steps

    @property
    def rate_per_evaluation(self) -> float | None:
        """The radius to the power of 1 / evaluations."""
        return None if self.evaluations is None else float(self.radius ** (1 / self.evaluations))


def best_settings(
    family: str | Family,
    game: BilinearGame | QuadraticGame | Spectrum,
    *,
    grid: int | None = None,
    starts: int = 4,
    tolerance: float = 1e-9,
    reduction: float = 1e-6,
) -> BestSettings:
    """The settings with the smallest radius that a search finds.

    Args:
        family: one of `FAMILIES` by name, or your own.
        game: bilinear or quadratic, or a spectrum.
        grid: points per hyperparameter of the first look, ≥ 2; default 60 for one of them, 20 for two, 9 for more.
        starts: how many of them are refined, ≥ 1.
        tolerance: where a refinement ends, > 0, as a share of the range of a hyperparameter.
        reduction: of the distance, that steps are counted for, in (0, 1).

    Raises:
        ConfigurationError: an unknown name, a number out of its range, or scipy is missing.

    Example:
        >>> best = best_settings("alternating LEAD", Spectrum.between(0.2, 1.0))
        >>> round(best.radius, 3), best.evaluations
        (0.817, 2)
    """
    if isinstance(family, str) and family not in FAMILIES:
        raise ConfigurationError(f"Cannot search {family!r}; choose one of {', '.join(FAMILIES)}, or pass a Family")
    if (grid is not None and grid < 2) or starts < 1 or not tolerance > 0 or not 0 < reduction < 1:
        raise ConfigurationError(
            "Cannot search without a grid, a point to start and a goal; pass grid ≥ 2, starts ≥ 1, a tolerance > 0 and "
            f"a reduction in (0, 1) (got {grid}, {starts}, {tolerance} and {reduction})"
        )
    chosen = FAMILIES[family] if isinstance(family, str) else family
    spectrum = game if isinstance(game, Spectrum) else Spectrum.of(game)
    points = grid or {1: 60, 2: 20}.get(len(chosen.axes), 9)
    minimize = scipy_module("optimize").minimize
    largest = float(spectrum.sigma.max())
    units = {"step": 1 / math.hypot(largest, spectrum.curvature), "weight": 1 / max(largest, 1e-300), "number": 1.0}

    def settings(share: Sequence[float]) -> dict[str, float]:
        return {axis.name: axis.at(p) * units[axis.unit] for axis, p in zip(chosen.axes, share, strict=True)}

    def radius(share: Sequence[float]) -> float:
        outside = sum(max(0.0, -p, p - 1) for p in share)
        values = settings([min(max(p, 0.0), 1.0) for p in share])
        found = spectrum.radius(
            chosen.build(values), lr=values["lr"], play=chosen.play, momentum=values.get("momentum", 0.0)
        )
        return min(found, 1e6) * (1 + outside) + outside  # back inside, but no cliff

    ticks = [(k + 0.5) / points for k in range(points)]
    shares = sorted(itertools.product(ticks, repeat=len(chosen.axes)), key=radius)[:starts]
    best = shares[0]
    for share in shares:
        for size in (0.5 / points, 0.05 / points):  # the second simplex is fresh: the first may have gone flat
            corners = [list(share), *([p + size * (k == j) for j, p in enumerate(share)] for k in range(len(share)))]
            options = {"initial_simplex": corners, "xatol": tolerance, "fatol": 1e-3 * tolerance}
            options["maxiter"] = 200 * len(share)
            share = tuple(float(p) for p in minimize(radius, share, method="Nelder-Mead", options=options).x)
        best = min(best, share, key=radius)
    values = settings([min(max(p, 0.0), 1.0) for p in best])
    rule = chosen.build(values)
    count = None if rule.cost is None else rule.cost.gradients + rule.cost.hessian_products
    momentum = values.get("momentum", 0.0)
    found = spectrum.radius(rule, lr=values["lr"], play=chosen.play, momentum=momentum)
    return BestSettings(chosen.name, values, rule, chosen.play, found, count, reduction)


def stability_region(
    build: Callable[[float, float], tuple[AbstractGameRule, Mapping[str, float]]],
    first: Sequence[float],
    second: Sequence[float],
    spectrum: Spectrum,
    *,
    play: Play | None = None,
) -> Tensor:
    """The radius over two hyperparameters; where it is below 1 the rule is stable.

    Args:
        build: (first, second) -> a rule, and its lr and, if any, momentum.
        first: values of one, for rows.
        second: values of the other, for columns.
        spectrum: of the game.
        play: default the rule's own.

    Returns:
        Shape (len(first), len(second)).

    Example:
        >>> from lightning_lead.rules import LEAD
        >>> spectrum = Spectrum.between(0.2, 1.0)
        >>> radius = stability_region(
        ...     lambda a, beta: (LEAD(a), {"lr": 0.3, "momentum": beta}), [0.0, 1.0], [0.0, 0.3], spectrum
        ... )
        >>> (radius < 1 - 1e-9).tolist()
        [[False, False], [True, True]]
    """
    rows = []
    for a in first:
        made = [build(a, b) for b in second]
        rows.append([spectrum.radius(rule, play=play, **settings) for rule, settings in made])
    return torch.tensor(rows, dtype=torch.float64)

"""Families of rules to search over: which hyperparameters decide a rule's rate, and in which range to look.

Each axis runs from 0 to 1 and is stretched to its range on a linear or a logarithmic scale; "lr" is always among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from lightning_lead._types import Play
from lightning_lead.rules import (
    CGD,
    LEAD,
    ODEGAN,
    AbstractGameRule,
    ConsensusOptimization,
    Extragradient,
    GradientPlay,
    LevelK,
    LookaheadMinmax,
    OptimisticGradient,
    PolyakMomentum,
    SymplecticGradientAdjustment,
)

__all__ = ["FAMILIES", "Axis", "Family"]


class Axis(NamedTuple):
    """A hyperparameter and where to look for it.

    Example:
        >>> round(Axis("lr", 0.01, 1.0).at(0.5), 6)
        0.1
    """

    name: str
    low: float
    high: float
    scale: Literal["log", "linear", "near one"] = "log"  # the last: logarithmic in 1 − value
    unit: Literal["number", "step", "weight"] = "number"  # of the range; see `analysis.search`

    def at(self, share: float) -> float:
        """The value at a share in [0, 1].

        Args:
            share: 0 is `low`, 1 is `high`.
        """
        if self.scale == "log":
            return math.exp((1 - share) * math.log(self.low) + share * math.log(self.high))
        if self.scale == "near one":
            return 1 - math.exp((1 - share) * math.log(1 - self.low) + share * math.log(1 - self.high))
        return (1 - share) * self.low + share * self.high


class Family(NamedTuple):
    """A rule as a function of its hyperparameters, and the axes along which to look.

    Example:
        >>> FAMILIES["alternating LEAD"].build({"coupling": 4.5, "lr": 0.1, "momentum": 0.7}).coupling
        4.5
    """

    name: str
    play: Play
    axes: tuple[Axis, ...]  # "momentum" is SGD's
    build: Callable[[Mapping[str, float]], AbstractGameRule]


_LR = Axis("lr", 1e-4, 4.0, unit="step")
_WEIGHT = Axis("weight", 1e-3, 1e3, unit="weight")
_LEAD = (_LR, Axis("coupling", 1e-4, 1e3), Axis("momentum", 0.0, 0.999, "near one"))

_BETA = Axis("beta", -0.99, 0.99, "linear")


def _ode_gan(scheme: Literal["euler", "heun", "rk4"], name: str) -> Family:
    """A Runge-Kutta scheme with the paper's penalty; without one Euler's is simultaneous gradient play."""
    return Family(
        f"ODE-GAN, {name}", "simultaneous", (_LR, _WEIGHT), lambda s: ODEGAN(scheme, regularization=s["weight"])
    )


_ALL = (
    Family("simultaneous gradient play", "simultaneous", (_LR,), lambda s: GradientPlay()),
    Family("alternating gradient play", "alternating", (_LR,), lambda s: GradientPlay()),
    Family("simultaneous momentum", "simultaneous", (_LR, _BETA), lambda s: PolyakMomentum(s["beta"])),
    Family("alternating momentum", "alternating", (_LR, _BETA), lambda s: PolyakMomentum(s["beta"])),
    Family(
        "optimistic gradient",
        "simultaneous",
        (_LR, Axis("optimism", 1e-2, 1e3)),
        lambda s: OptimisticGradient(s["optimism"]),
    ),
    Family(
        "alternating optimistic gradient",
        "alternating",
        (_LR, Axis("optimism", 1e-2, 1e3)),
        lambda s: OptimisticGradient(s["optimism"]),
    ),
    # on quadratic games this is LEAD with momentum β = m − ηha, for half the evaluations; see docs/games.md
    Family(
        "alternating optimistic gradient with momentum",
        "alternating",
        (_LR, Axis("optimism", 1e-4, 1e3), Axis("momentum", 0.0, 0.999, "near one")),
        lambda s: OptimisticGradient(s["optimism"]),
    ),
    Family(
        "extragradient, two step sizes",
        "simultaneous",
        (_LR, Axis("stretch", 1e-2, 1e4)),
        lambda s: Extragradient(s["stretch"]),
    ),
    Family("competitive gradient descent", "simultaneous", (Axis("lr", 1e-2, 1e2, unit="step"),), lambda s: CGD()),
    Family("consensus", "simultaneous", (_LR, _WEIGHT), lambda s: ConsensusOptimization(s["weight"])),
    Family(
        "symplectic adjustment",
        "simultaneous",
        (_LR, _WEIGHT),
        lambda s: SymplecticGradientAdjustment(s["weight"], align=False),
    ),
    _ode_gan("euler", "Euler"),
    _ode_gan("heun", "Heun"),
    _ode_gan("rk4", "RK4"),
    Family("level-2 play", "simultaneous", (_LR,), lambda s: LevelK(2)),
    Family("level-4 play", "simultaneous", (_LR,), lambda s: LevelK(4)),
    Family(
        "lookahead, 5 alternating steps",
        "alternating",
        # near η = 2/L the turn changes so fast with σ that a spectrum of few points misses what is in between
        (Axis("lr", 1e-4, 2.0, unit="step"), Axis("alpha", 0.01, 1.0, "linear")),
        lambda s: LookaheadMinmax(5, alpha=s["alpha"]),
    ),
    # every form has these eigenvalues; the extrapolated one takes the fewest evaluations
    Family("simultaneous LEAD", "simultaneous", _LEAD, lambda s: LEAD(s["coupling"], cross="extrapolated")),
    Family("alternating LEAD", "alternating", _LEAD, lambda s: LEAD(s["coupling"], cross="extrapolated")),
)
FAMILIES = {family.name: family for family in _ALL}

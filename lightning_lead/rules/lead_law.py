"""A law that sets alternating LEAD with momentum on a quadratic game, and the rate that it reaches.

Let A's singular values lie in [m, L] and the curvature be h. Alternating LEAD has, per σ, the eigenvalues z = −u² with

    u⁴ − σ(η + α)u³ + (1 + β − ηh)u² − σαu + β = 0                            (`analysis.recurrences`; α = ηa)

1. Take β = r², and u = √r·v. If α/η = r/(1 − r), so η + α = η/(1 − r), the quartic over r² reads the same backwards,

    v⁴ − σk v³ + (1 + r² − ηh)/r v² − σk v + 1 = 0,         k = η / ((1 − r)√r)

   and s = v + 1/v turns it into  s² − σk s + c = 0  with  c = ((1 − r)² − ηh)/r.
2. |z| = r means |v| = 1, which means that s is real and in [−2, 2]. With η = e(1 − r)² the factor (1 − r) leaves

    s = ½ (1 − r)/√r · (σe ± √(σ²e² − 4(1 − eh)))

   Real for every σ ≥ m if m²e² ≥ 4(1 − eh), so for e ≥ 2/(h + √(h² + m²)). Take the equality: it makes s smallest.
   Then 1 − eh ≥ 0, so neither root is negative, and the root is √(σ²e² − m²e²).
3. The larger s grows with σ and falls with r, so σ = L decides, and s = 2 there gives the smallest r:

    2√r/(1 − r) = G,      G = (L + √(L² − m²)) / (h + √(h² + m²))
    with S = √(1 + G²):   r = (S − 1)/(S + 1),   α/η = (S − 1)/2,   β = r²,   η = 8 / ((h + √(h² + m²)) (S + 1)²)

   An equal way to put it is  L·e·(1 − r) = ((1 + r)² − eh(1 − r)²) / (2√r), the larger root of it.

For h = 0 and κ = L/m this is κ = (1 + r)² / (4√r(1 − r)), and r → 1 − 1/κ. With all |z| equal no σ is slower than
another. That no other (η, α, β) does better is not proven here; a global search finds none, see docs/games.md.

Before any best setting, momentum needs a least coupling. For h = 0 and small steps the pair of roots near 1 has

    |z| = 1 − ω²(a − β/(1 − β)) + O(ω³),      ω = ησ/(1 − β)

so it shrinks where a > β/(1 − β): momentum plays gradients that are β/(1 − β) steps old on average, and LEAD has to
look further ahead than that. Simultaneous play, which spirals out by itself, needs half a step more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_lead._errors import ConfigurationError
from lightning_lead._types import Play

__all__ = ["LeadLaw", "alternating_lead_law", "least_coupling"]


class LeadLaw(NamedTuple):
    """Settings of alternating LEAD in the paper's units, and the factor per game step that they reach.

    Example:
        >>> LeadLaw(eta=0.1, alpha=0.3, beta=0.5, rate=0.8).rate
        0.8
    """

    eta: float  # η
    alpha: float  # α = ηa, in update units
    beta: float  # β
    rate: float  # r, the spectral radius

    @property
    def coupling(self) -> float:
        """a = α/η, what `LEAD(coupling=...)` takes."""
        return self.alpha / self.eta


def alternating_lead_law(smallest: float, largest: float, curvature: float = 0.0) -> LeadLaw:
    """The best settings of alternating LEAD for a quadratic game; see the module's head.

    Args:
        smallest: m ≥ 0, the smallest singular value of the coupling; may be 0 if there is curvature, as it is for a
            coupling that is not square.
        largest: L ≥ m, the largest one.
        curvature: h ≥ 0.

    Returns:
        η, α, β and the rate r, for `LEAD(alpha / eta)` in alternating play into SGD(lr=eta, momentum=beta).

    Raises:
        ConfigurationError: a number out of its range; a game without a single equilibrium; or one so badly conditioned
            that β rounds to 1.

    Example:
        >>> law = alternating_lead_law(0.2, 1.0)
        >>> f"a = {law.coupling:.2f}, beta = {law.beta:.2f}, rate = {law.rate:.3f}"
        'a = 4.47, beta = 0.67, rate = 0.817'
        >>> from lightning_lead.analysis import closed_form_radius
        >>> from lightning_lead.games import BilinearGame
        >>> from lightning_lead.rules import LEAD
        >>> game = BilinearGame.from_singular_values([0.2, 0.5, 1.0], seed=0)
        >>> radius = closed_form_radius(
        ...     LEAD(law.coupling), game, lr=law.eta, play="alternating", momentum=law.beta
        ... )
        >>> abs(radius - law.rate) < 1e-6
        True
    """
    for name, value in (("smallest", smallest), ("largest", largest), ("curvature", curvature)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
            raise ConfigurationError(
                f"Cannot use {name} because the game is described by finite numbers ≥ 0; pass one (got {value!r})"
            )
    if smallest > largest:
        raise ConfigurationError(
            f"Cannot use smallest > largest; pass the singular values in order (got {smallest!r} and {largest!r})"
        )
    stiffness = curvature + math.hypot(curvature, smallest)
    if stiffness == 0:
        raise ConfigurationError(
            "Cannot set LEAD for a game that does not pull along some direction, because without curvature a singular "
            "value of zero leaves a line of equilibria; pass smallest > 0 or curvature > 0 (got 0 and 0)"
        )
    reach = largest + math.sqrt((largest - smallest) * (largest + smallest))
    size = math.hypot(1.0, reach / stiffness)  # S
    rate = (size - 1) / (size + 1)
    eta = 8 / (stiffness * (size + 1) ** 2)
    law = LeadLaw(eta=eta, alpha=eta * (size - 1) / 2, beta=rate**2, rate=rate)
    if not (law.beta < 1 and law.eta > 0):
        raise ConfigurationError(
            "Cannot set LEAD because the game is so badly conditioned that β rounds to 1; raise the curvature, or "
            f"leave the smallest singular values to themselves (got largest / smallest = {largest!r} / {smallest!r})"
        )
    return law


def least_coupling(beta: float, play: Play = "alternating") -> float:
    """The coupling a above which LEAD with momentum β shrinks a bilinear game, if its steps are small enough.

    Args:
        beta: momentum of SGD, in [0, 1).
        play: "alternating", β/(1 − β); or "simultaneous", half a step more.

    Raises:
        ConfigurationError: a momentum out of its range, or another play.

    Example:
        >>> [round(least_coupling(beta), 2) for beta in (0.0, 0.5, 0.7, 0.9)]
        [0.0, 1.0, 2.33, 9.0]
    """
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1:
        raise ConfigurationError(f"Cannot use beta because momentum is a number in [0, 1); pass one (got {beta!r})")
    if play not in ("alternating", "simultaneous"):
        raise ConfigurationError(f"Cannot use play={play!r}; choose 'alternating' or 'simultaneous'")
    return beta / (1 - beta) + (0.5 if play == "simultaneous" else 0.0)

"""LEADStrategy: LEAD with its settings in one place, also in the units of the paper, of physics, and of a spectrum."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from lightning_lead._arguments import check_arguments
from lightning_lead._errors import ConfigurationError
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules._coupling import renamed_alpha
from lightning_lead.rules.lead import LEAD
from lightning_lead.rules.lead_law import alternating_lead_law

__all__ = ["LEADStrategy"]


class _OptimizerSettings(NamedTuple):
    """The settings of `torch.optim.SGD` under which a strategy is the paper's Algorithm 1."""

    lr: float
    momentum: float


class LEADStrategy(GameStrategy):
    """LEAD as a strategy: `GameStrategy(LEAD(...))` with its settings in one place.

    Args:
        coupling: a in gradient units (a = α/η of the paper), finite, ≥ 0; 0 is plain gradient play at its price. "auto"
            sets it by the moving player's momentum; one number is for both; or player -> its own, as in
            {"discriminator": 0.5, "generator": 0.01}.
        cross: "exact", "difference", "extrapolated", or "auto", which checks itself; see `rules.LEAD`.
        form: "opponent" (default) or "own", of the exact term.
        play: "alternating" or "simultaneous".
        cross_fraction: share of each batch that the cross term is estimated on, in (0, 1]; see `rules.LEAD`.
        check_every: for `cross="auto"`; see `rules.LEAD`.
        least_agreement: the same.
        fallback: the same.
        skip_limit: see `GameStrategy`.
        offload: see `GameStrategy`.
        alpha: deprecated name of `coupling`.

    Raises:
        ConfigurationError: a setting out of its range.

    Example:
        >>> strategy, settings = LEADStrategy.from_paper(eta=0.1, beta=0.5, alpha=0.05)
        >>> strategy.rule.coupling, settings
        (0.5, _OptimizerSettings(lr=0.1, momentum=0.5))
    """

    def __init__(
        self,
        coupling: float | dict[str, float] | Literal["auto"] = "auto",
        *,
        cross: Literal["exact", "difference", "extrapolated", "auto"] = "exact",
        form: Literal["opponent", "own"] | None = None,
        play: Literal["alternating", "simultaneous"] = "alternating",
        cross_fraction: float = 1.0,
        check_every: int = 25,
        least_agreement: float = 0.5,
        fallback: Literal["exact", "difference"] = "exact",
        skip_limit: int | None = 10,
        offload: bool = False,
        alpha: float | dict[str, float] | None = None,
    ) -> None:
        check_arguments(LEADStrategy, locals(), but=("coupling",))
        rule = LEAD(
            coupling if alpha is None else renamed_alpha(alpha, coupling),
            cross=cross,
            form=form,
            cross_fraction=cross_fraction,
            check_every=check_every,
            least_agreement=least_agreement,
            fallback=fallback,
        )
        super().__init__(rule, play=play, skip_limit=skip_limit, offload=offload)

    @classmethod
    def from_paper(
        cls, *, eta: float, beta: float, alpha: float, **settings: Any
    ) -> tuple[LEADStrategy, _OptimizerSettings]:
        """Build it in the paper's units, x⁺ = x + β(x − x⁻) − η g − α(…): a = α/η, with SGD(lr=η, momentum=β).

        Args:
            eta: step size η > 0.
            beta: momentum β in [0, 1).
            alpha: coupling α ≥ 0 in update units.
            **settings: any other setting of the strategy.

        Returns:
            The strategy and the matching SGD settings.

        Raises:
            ConfigurationError: a number out of its range.
        """
        if not (math.isfinite(eta) and eta > 0):
            raise ConfigurationError(f"Cannot use eta because a step size must be finite and > 0 (got {eta!r})")
        if not (math.isfinite(beta) and 0 <= beta < 1):
            raise ConfigurationError(f"Cannot use beta because momentum must be in [0, 1) (got {beta!r})")
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigurationError(f"Cannot use alpha because a coupling must be finite and ≥ 0 (got {alpha!r})")
        return cls(alpha / eta, **settings), _OptimizerSettings(lr=eta, momentum=beta)

    @classmethod
    def from_physics(
        cls, *, charge: float, friction: float, time_step: float, **settings: Any
    ) -> tuple[LEADStrategy, _OptimizerSettings]:
        """Build it in the particle's units, mass 1: η = δ², β = 1 − μδ, α = 2qδ.

        Args:
            charge: q ≥ 0.
            friction: μ in (0, 1/δ].
            time_step: δ > 0.
            **settings: any other setting of the strategy.

        Returns:
            The strategy and the matching SGD settings.

        Raises:
            ConfigurationError: a number out of its range.

        Example:
            >>> strategy, settings = LEADStrategy.from_physics(charge=0.25, friction=1.0, time_step=0.5)
            >>> strategy.rule.coupling, settings.lr, settings.momentum
            (1.0, 0.25, 0.5)
        """
        if not (math.isfinite(time_step) and time_step > 0):
            raise ConfigurationError(f"Cannot use time_step because it must be finite and > 0 (got {time_step!r})")
        eta, beta, alpha = time_step**2, 1 - friction * time_step, 2 * charge * time_step
        return cls.from_paper(eta=eta, beta=beta, alpha=alpha, **settings)

    @classmethod
    def for_spectrum(
        cls, *, smallest: float, largest: float, curvature: float = 0.0, **settings: Any
    ) -> tuple[LEADStrategy, _OptimizerSettings]:
        """Build alternating play with strong coupling and momentum, by a law for quadratic games of this spectrum.

        The law and its rate are in `rules.lead_law`. On the bilinear game it needs about κ game
        steps per factor e, κ = largest/smallest.

        Args:
            smallest: smallest singular value of the coupling, ≥ 0, > 0 without curvature.
            largest: the largest one.
            curvature: h ≥ 0, of both players' own losses.
            **settings: any other setting of the strategy but `play`, which is alternating; every form has this rate.

        Returns:
            The strategy and the matching SGD settings.

        Raises:
            ConfigurationError: a number out of its range.

        Example:
            >>> strategy, settings = LEADStrategy.for_spectrum(smallest=0.2, largest=1.0)
            >>> f"a = {strategy.rule.coupling:.2f}, lr = {settings.lr:.3f}, momentum = {settings.momentum:.3f}"
            'a = 4.47, lr = 0.334, momentum = 0.668'
        """
        law = alternating_lead_law(smallest, largest, curvature)
        return cls(law.coupling, play="alternating", **settings), _OptimizerSettings(lr=law.eta, momentum=law.beta)

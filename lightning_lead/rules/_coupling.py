"""The coupling, how far LEAD looks ahead: a number, one per player, or a law of the moving player's own momentum.

    a_i = lag_i + ½          alternating play
    a_i = lag_i + 1          simultaneous play

lag_i is the mean age of the gradients in player i's step, in its own steps: β/(1 − β) for SGD, Adam and their
relatives, β²/(1 − β) with Nesterov's momentum (`calculus.lookahead`). The step that momentum makes answers the
opponent of lag_i steps ago, so the coupling makes up for as many steps, and for half a step more.

1. Bilinear game, small steps η. Player i's step is that of the gradient at y(t + a_i − lag_i), to first order in time,
   and a gradient that is ε steps ahead adds εησ² to the contraction. Alternating play without coupling neither grows
   nor shrinks, so the pair shrinks as soon as Σ_i (a_i − lag_i) > 0: only the sum counts, and each player making up for
   its own lag is the law that needs no knowledge of the other. Simultaneous play lags by half a step more per player.
2. With n discriminator steps D's lag counts D's steps, n to a game step, and D sees the generator's move in one of
   them. So both its lag and its coupling count 1/n per game step, and the law stays as it is.
3. What is left over, ½ for each player in either play, is the contraction. It is a compromise: none leaves the game on
   the edge, and the larger it is, the more of the noise of the opponent's last move goes into the direction.

The margin was chosen on digits and kept; `docs/extrapolated.md` has the table, and what the law did where it was not
chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from lightning_lead._deprecation import renamed_argument
from lightning_lead._errors import ConfigurationError

__all__ = ["Coupling", "check_coupling", "coupling_by_momentum", "renamed_alpha"]

Coupling = float | dict[str, float] | Literal["auto"]
"""a in gradient units; player -> its own; or "auto", the law of this module."""

_MARGIN = 0.5


def coupling_by_momentum(lag: float, *, simultaneous: bool = False) -> float:
    """Return the coupling that makes up for a lag, and for half a step more."""
    return lag + _MARGIN + (0.5 if simultaneous else 0.0)


def check_coupling(coupling: Any) -> Coupling:
    """Return the coupling with its numbers as floats, if it is one."""
    if isinstance(coupling, str) and coupling == "auto":
        return "auto"
    numbers = list(coupling.values()) if isinstance(coupling, Mapping) else [coupling, coupling]
    if len(numbers) < 2 or not all(map(_is_coupling, numbers)):
        raise ConfigurationError(
            "Cannot use coupling because it must be a finite number ≥ 0 (a negative one adds to the spin), one for "
            "each of the players by name, or 'auto', which follows the optimizer's momentum; try 'auto' "
            f"(got {coupling!r})"
        )
    return {k: float(a) for k, a in coupling.items()} if isinstance(coupling, Mapping) else float(coupling)


def _is_coupling(a: Any) -> bool:
    return isinstance(a, (int, float)) and not isinstance(a, bool) and math.isfinite(a) and a >= 0


def renamed_alpha(alpha: float | Mapping[str, float], coupling: object) -> float | Mapping[str, float]:
    """Return what was passed under the old name, and warn of it; both names together are a ConfigurationError."""
    why = "the paper's α is another number (a = α/η)"
    renamed_argument("alpha", "coupling", alpha, coupling, default="auto", since="0.2", until="0.3", why=why)
    return alpha

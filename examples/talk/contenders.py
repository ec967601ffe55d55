"""Who is compared on quadratic games: every family of `lightning_lead.analysis`, in the colours of the figures.

A rate is the smallest spectral radius that a search over the rule's hyperparameters finds on its closed form.
Competitive gradient descent is played instead, because what its solver costs depends on the data.
"""

from __future__ import annotations

import itertools
import math
import warnings

import torch

from lightning_lead.analysis import (
    FAMILIES,
    BestSettings,
    Family,
    Match,
    Spectrum,
    alternating_lead_law,
    best_settings,
)
from lightning_lead.games import QuadraticGame
from lightning_lead.rules import CGD, LookaheadMinmax

LEAD_NAME = "alternating LEAD"
CGD_NAME = "competitive gradient descent"
OPTIMISTIC_NAME = "alternating optimistic gradient with momentum"
REDUCTION = 1e-6
SHRINKS = 1 - 1e-9  # a radius above it is 1 to the accuracy of a search
INNER_STEPS = (2, 5, 10, 20, 40)  # of lookahead

COLOURS = {  # in the order of the tables
    "simultaneous gradient play": "#bdbdbd",
    "alternating gradient play": "#7f7f7f",
    "simultaneous momentum": "#dfc27d",
    "alternating momentum": "#8c510a",
    "optimistic gradient": "#b3aed6",
    "alternating optimistic gradient": "#54278f",
    OPTIMISTIC_NAME: "#17becf",
    "extragradient, two step sizes": "#1b9e77",
    CGD_NAME: "#e6ab02",
    "consensus": "#66a61e",
    "symplectic adjustment": "#b2df8a",
    "ODE-GAN, Euler": "#fa9fb5",
    "ODE-GAN, Heun": "#dd3497",
    "ODE-GAN, RK4": "#7a0177",
    "level-2 play": "#9ecae1",
    "level-4 play": "#4292c6",
    "lookahead, alternating": "#08306b",
    "simultaneous LEAD": "#f4a582",
    LEAD_NAME: "#d62728",
}


def best_of_all(spectrum: Spectrum, *, fast: bool) -> dict[str, BestSettings]:
    """The best settings of every family that is searched, in the order of COLOURS; the radius is that of all of [m, L].

    Lookahead is searched with several numbers of inner steps.
    """
    lookahead = FAMILIES["lookahead, 5 alternating steps"]._replace(name="lookahead, alternating")
    found = {}
    for name in COLOURS:
        if name in FAMILIES and name != CGD_NAME:
            found[name] = _best(FAMILIES[name], spectrum, fast=fast)
            if name == OPTIMISTIC_NAME:  # the search can end beside what is known
                found[name] = min(found[name], _by_the_law(spectrum), key=lambda best: best.radius)
        elif name == lookahead.name:
            builds = [lambda s, k=k: LookaheadMinmax(k, alpha=s["alpha"]) for k in ((5,) if fast else INNER_STEPS)]
            tried = [_best(lookahead._replace(build=build), spectrum, fast=fast) for build in builds]
            found[name] = min(tried, key=lambda best: best.radius)
    return found


def _best(family: Family, spectrum: Spectrum, *, fast: bool) -> BestSettings:
    """Searched on few singular values, and on many where others between the few would be slower."""
    dense = Spectrum.between(*spectrum.sigma.aminmax(), spectrum.curvature, points=101 if fast else 801)
    grid = {"grid": 5, "starts": 1, "tolerance": 1e-3} if fast else {}

    def of_all(best: BestSettings) -> BestSettings:
        momentum = best.settings.get("momentum", 0.0)
        return best._replace(radius=dense.radius(best.rule, lr=best.settings["lr"], play=best.play, momentum=momentum))

    few = best_settings(family, spectrum, **grid)
    found = of_all(few)
    if not fast and found.radius > few.radius + 1e-3 * abs(1 - few.radius) + 1e-12:
        found = min(found, of_all(best_settings(family, dense, **grid)), key=lambda best: best.radius)
    return found


def _by_the_law(spectrum: Spectrum) -> BestSettings:
    """The optimistic gradient that has the eigenvalues of LEAD by its law; see docs/games.md."""
    law = alternating_lead_law(*map(float, spectrum.sigma.aminmax()), spectrum.curvature)
    settings = {"optimism": law.coupling, "lr": law.eta}
    settings["momentum"] = law.beta + law.eta * spectrum.curvature * law.coupling
    rule = FAMILIES[OPTIMISTIC_NAME].build(settings)
    radius = spectrum.radius(rule, lr=law.eta, play="alternating", momentum=settings["momentum"])
    return BestSettings(OPTIMISTIC_NAME, settings, rule, "alternating", radius, 2, REDUCTION)


def game_steps(radius: float) -> float:
    """Until the distance has shrunk by REDUCTION, in the long run; NaN where it does not shrink."""
    return math.log(REDUCTION) / math.log(max(radius, 1e-99)) if radius < SHRINKS else math.nan


def evaluations(best: BestSettings) -> float:
    """Gradients and Hessian products, of both players together, until then."""
    assert best.evaluations is not None
    return best.evaluations * game_steps(best.radius)


def solver_evaluations(smallest: float, largest: float, curvature: float, *, fast: bool) -> float:
    """What competitive gradient descent needs at the best of some step sizes and tolerances, its solver's included.

    Played by conjugate gradients on 400 singular values in [m, L]; a match ends where it has cost more than the best so
    far, or 4,000 evaluations: what needs more is infinite.
    """
    sigma = torch.logspace(math.log10(smallest), math.log10(largest), 20 if fast else 400, dtype=torch.float64)
    game = QuadraticGame(torch.diag(sigma), curvature=curvature)
    unit = 1 / math.hypot(largest, curvature)
    factors = (10.0, 1.0) if fast else [10 ** (k / 4) for k in (*range(4, 17), *range(3, -3, -1))]
    best = math.inf
    for factor, tolerance in itertools.product(factors, (1e-1,) if fast else (0.5, 0.2, 0.1, 1e-2, 1e-3, 1e-4)):
        rule = CGD("cg", tolerance=tolerance, max_iterations=int(min(4000, best / 2)))
        match = Match(rule, game, lr=factor * unit, start=game.random_point(seed=0))
        first, spent = match.distance, 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="CGD: cg left")  # it then costs more than the best, and is left
            while REDUCTION * first < match.distance < 10 * first and spent < min(best, 4000):
                match.step()
                spent = sum(match.evaluations.values())
        if match.distance <= REDUCTION * first:
            # the last step goes further than it must
            best = min(best, spent * math.log(REDUCTION) / math.log(match.distance / first))
    return best

"""Searches against rates that are known, and a stability map against the radius."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from lightning_lead import ConfigurationError
from lightning_lead.analysis import (
    FAMILIES,
    Axis,
    Family,
    Spectrum,
    alternating_lead_law,
    best_settings,
    spectral_radius,
    stability_region,
)
from lightning_lead.games import BilinearGame, QuadraticGame
from lightning_lead.rules import LEAD, GradientPlay


@pytest.mark.parametrize(
    ("kappa", "family"), [(2.0, "alternating LEAD"), (20.0, "alternating optimistic gradient with momentum")]
)
def test_known_best_rates_are_found(kappa: float, family: str) -> None:
    spectrum = Spectrum.between(1.0, kappa)
    # consensus with a large weight is gradient descent on ½|v|², whose condition number is κ²
    assert best_settings("consensus", spectrum).radius == pytest.approx((kappa**2 - 1) / (kappa**2 + 1), abs=1e-3)
    assert best_settings("alternating gradient play", spectrum).radius == pytest.approx(1.0, abs=1e-9)
    assert best_settings("alternating gradient play", spectrum).steps == math.inf
    law = alternating_lead_law(1.0, kappa)  # of both families, without curvature
    assert best_settings(family, spectrum, grid=5, starts=1).radius == pytest.approx(law.rate, abs=1e-5)


def test_gradient_play_with_curvature_alone_is_gradient_descent() -> None:
    family = Family(
        "gda", "simultaneous", (Axis("lr", 1e-3, 4.0, unit="step"),), lambda settings: GradientPlay()
    )  # fmt: skip
    best = best_settings(family, QuadraticGame([[2.0]], curvature=1.0))
    assert best.settings["lr"] == pytest.approx(0.2, rel=1e-3)  # h / (h² + σ²)
    assert best.radius == pytest.approx(2 / math.sqrt(5), abs=1e-9)
    assert (best.evaluations, best.work) == (2, 2 * best.steps)
    assert best.steps == math.ceil(math.log(1e-6) / math.log(best.radius))
    assert best.rate_per_evaluation == pytest.approx(math.sqrt(best.radius))


# the best step size of competitive gradient descent is the largest one looked at, where its solver cannot be probed
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "competitive gradient descent"])
def test_what_is_found_is_what_probing_says(name: str) -> None:
    game = QuadraticGame([[1.0, 0.2], [-0.1, 0.5]], curvature=0.1)
    best = best_settings(name, game, grid=3, starts=1, tolerance=1e-4)
    probed = spectral_radius(
        best.rule,
        game,
        lr=best.settings["lr"],
        play=best.play,
        optimizer=lambda groups: torch.optim.SGD(groups, momentum=best.settings.get("momentum", 0.0)),
    )
    assert best.radius == pytest.approx(probed, abs=1e-5)  # near an optimum roots meet
    assert 0 < best.radius < 1


def test_a_stability_map_is_the_radius_at_each_place() -> None:
    game = BilinearGame.from_singular_values([0.5, 1.0], seed=0)
    radius = stability_region(
        lambda a, beta: (LEAD(a), {"lr": 0.2, "momentum": beta}),
        [0.0, 1.0, 3.0],
        [0.0, 0.5],
        Spectrum.of(game),
        play="alternating",
    )
    assert radius.shape == (3, 2)
    probed = spectral_radius(
        LEAD(3.0), game, lr=0.2, play="alternating", optimizer=lambda groups: torch.optim.SGD(groups, momentum=0.5)
    )
    assert float(radius[2, 1]) == pytest.approx(probed, abs=1e-10)


def test_a_game_that_is_not_square_has_directions_without_coupling() -> None:
    assert Spectrum.of(QuadraticGame([[3.0, 4.0]], curvature=1.0)).sigma.tolist() == pytest.approx([5.0, 0.0])


def test_bad_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spectrum = Spectrum.between(1.0, 2.0)
    with pytest.raises(ConfigurationError, match="'adam'; choose one of"):
        best_settings("adam", spectrum)
    for bad in ({"grid": 1}, {"starts": 0}, {"tolerance": 0.0}, {"reduction": 1.0}):
        with pytest.raises(ConfigurationError, match="Cannot search without"):
            best_settings("consensus", spectrum, **bad)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ConfigurationError, match="SciPy is not installed; run `pip install"):
        best_settings("consensus", spectrum)

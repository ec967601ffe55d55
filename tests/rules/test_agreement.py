"""`cross="auto"`: the agreement of two forms, what it decides, and what it costs."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tiny import tiny_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import ConfigurationError, LeadModule, LEADStrategy
from lightning_lead.analysis import Match
from lightning_lead.calculus import GameOracle
from lightning_lead.games import QuadraticGame
from lightning_lead.rules import LEAD, LookaheadMinmax
from lightning_lead.rules._agreement import agreement


class Kinked:
    """f = x·|y|, x minimises: linear in y but for one kink, at 0."""

    def losses(self, point, wanted=None, *, replay=False):
        value = (point["x"][0] * point["y"][0].abs()).sum()
        return {"x": value, "y": -value}


def vector(*numbers):
    return (torch.tensor(numbers, dtype=torch.float64),)


def played(rule, turns, game=None):
    """Directions of x and what was noted, turn by turn, where y stands at the given places."""
    game = game or Kinked()
    point = {"x": vector(1.0), "y": vector(turns[0])}
    state, seen = rule.init(point), []
    for y in turns[1:]:
        state = {**state, "moved": state["moved"] | {"y": True}}  # it has moved there
        oracle = GameOracle({**point, "y": vector(y)}, [game.losses])
        directions, state = rule.direction(oracle, ["x"], state)
        seen.append((directions["x"][0].item(), dict(oracle.notes), Counter(oracle.evaluations)))
    return seen, state


def test_agreement_is_one_minus_the_relative_difference_of_the_corrections():
    plain, reference, ahead = vector(1.0, 1.0), vector(1.0, 3.0), vector(1.5, 3.0)
    assert agreement(plain, ahead, reference) == pytest.approx(1 - 0.5 / 2)
    assert agreement(plain, reference, reference) == 1.0
    assert agreement(plain, plain, plain) == 1.0
    assert agreement(plain, ahead, plain) == agreement(plain, vector(9.0, 9.0), reference) == -1.0


def test_away_from_the_kink_the_forms_are_one_and_across_it_the_exact_term_is_taken():
    """y moves by −1 each time and a = 2: from 9 the look ahead ends at 6, from 1 at |−1|, where the tangent says −1."""
    rule = LEAD(2.0, cross="auto", check_every=1, least_agreement=0.5)
    seen, _ = played(rule, [10.0, 9.0, 8.0, 3.0, 2.0, 1.0])
    directions = [direction for direction, _, _ in seen]
    # |y + aΔ| for 9, 8, 3 − 10 (to |−7|: by the tangent), 2, and by the tangent 1 − 2 = −1
    assert directions == [7.0, 6.0, 3.0 - 10.0, 0.0, -1.0]
    assert [notes["cross_extrapolated/x"] for _, notes, _ in seen] == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert seen[0][1]["cross_agreement/x"] == 1.0
    # 1, 1, −0.4, 1 and 0 are measured; each counts as much as all before it
    agreed = [notes["cross_agreement/x"] for _, notes, _ in seen]
    assert agreed == pytest.approx([1.0, 1.0, 0.3, 0.65, 0.325])


def test_forms_are_compared_every_so_often_and_the_form_in_force_costs_what_it_costs_in_between():
    rule = LEAD(2.0, cross="auto", check_every=3, least_agreement=0.5)
    seen, state = played(rule, [20.0, 19.0, 18.0, 17.0, 16.0, 15.0, 14.0, 1.0, 0.9])
    costs = [(c["gradients"], c["hessian_products"]) for _, _, c in seen]
    check, ahead, exact = (3, 1), (1, 0), (1, 1)
    # the seventh turn crosses the kink, and is compared
    assert costs == [check, ahead, ahead, check, ahead, ahead, check, exact]
    # y = 1 has come from 14: a·c = −26, e = |1 − 26| − 1
    assert state["forms"]["x"] == {"turns": 8, "agreement": pytest.approx((2 - 50 / 26) / 2), "extrapolates": False}
    seen, _ = played(rule, [20.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert [(c["gradients"], c["hessian_products"]) for _, _, c in seen] == [check, exact, exact] * 2 + [check]
    assert [notes["cross_extrapolated/x"] for _, notes, _ in seen] == [0.0] * 6 + [1.0]


def test_the_cost_of_a_step_is_counted_over_all_the_steps_between_two_comparisons():
    assert (LEAD(cross="auto", check_every=7).period, LEAD(cross="exact").period) == (7, 1)


def test_a_term_that_is_not_finite_is_not_taken():
    """The slope of |y|^1.5 at 0 has no derivative there; the gradient at the displaced opponent is a number."""

    class Steep:
        def losses(self, point, wanted=None, *, replay=False):
            value = (point["x"][0] * point["y"][0]).abs().pow(1.5).sum() + (point["x"][0] * point["y"][0]).sum()
            return {"x": value, "y": -value}

    rule = LEAD(1.0, cross="auto", check_every=1)
    point, state = {"x": vector(0.0), "y": vector(2.0)}, None
    state = rule.init({**point, "y": vector(3.0)})
    state["moved"]["y"] = True
    directions, state = rule.direction(GameOracle(point, [Steep().losses]), ["x"], state)
    assert directions["x"][0].isfinite().all()
    assert state["forms"]["x"] == {"turns": 1, "agreement": 1.0, "extrapolates": True}
    assert (
        not LEAD(1.0)
        .direction(
            GameOracle(point, [Steep().losses]),
            ["x"],
            {**state, "moved": {"x": False, "y": True}, "anchor": {"x": vector(0.0), "y": vector(3.0)}},
        )[0]["x"][0]
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("fallback", ["exact", "difference"])
def test_under_autocast_forms_are_compared_in_float32(fallback):
    """On a game of products both forms are one, however small the step; in bf16 what is compared would be rounding."""

    class Products(LeadModule):
        def __init__(self):
            super().__init__(
                game=LEADStrategy(1.0, cross="auto", check_every=1, fallback=fallback), learning_rates=1e-3
            )
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def players(self):
            return {"a": self.a.parameters(), "b": self.b.parameters()}

        def player_losses(self, batch):
            value = (self.a(batch[0]).float() * self.b(batch[0]).float()).mean()
            return {"a": value, "b": -value}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    torch.manual_seed(1)
    data, module = DataLoader(TensorDataset(torch.randn(64, 3)), 16), Products()
    tiny_trainer(12, precision="bf16-mixed").fit(module, data)
    forms = module.game.state_dict()["state"]["forms"]
    assert all(form["agreement"] > 0.9 and form["extrapolates"] for form in forms.values())
    with pytest.raises(ConfigurationError, match="bf16 weights"):
        tiny_trainer(1, precision="bf16-true").fit(Products(), data)


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_on_a_quadratic_game_it_is_the_extrapolated_form_bit_for_bit(play):
    game = QuadraticGame([[1.0, 0.4], [-0.3, 0.8]], curvature=0.3)
    matches = [Match(LEAD(0.8, cross=cross), game, lr=0.2, play=play) for cross in ("auto", "extrapolated")]
    for _ in range(60):
        for match in matches:
            match.step()
    assert all(torch.equal(*(match.point[name][0] for match in matches)) for name in ("x", "y"))
    assert all(record["extrapolates"] for record in matches[0].state["forms"].values())


def test_with_the_difference_form_as_fallback_nothing_is_differentiated_twice():
    rule = LEAD(2.0, cross="auto", check_every=1, least_agreement=0.5, fallback="difference")
    seen, _ = played(rule, [10.0, 9.0, 1.0])
    assert [c["hessian_products"] for _, _, c in seen] == [0, 0]
    assert seen[1][0] == 1.0 + 2.0 * (1.0 - 9.0)  # g + a (g − g at the earlier opponent)
    assert (rule.needs.second_order, rule.needs.cancels, rule.needs.repeats_batch) == (False, True, True)


def test_a_rule_that_cannot_differentiate_twice_goes_on_with_its_settings():
    rule = LEAD({"x": 1.0, "y": 2.0}, cross="auto", check_every=7, least_agreement=0.25)
    once = rule.differentiating_once()
    assert repr(once) == repr(rule).replace("fallback='exact'", "fallback='difference'")
    assert LEAD(1.0).differentiating_once() is LEAD(1.0, cross="extrapolated").differentiating_once() is None
    around = LookaheadMinmax(3, alpha=0.7, inner=rule).differentiating_once()
    assert (around.steps, around.alpha, repr(around.inner)) == (3, 0.7, repr(once))
    assert LookaheadMinmax(3).differentiating_once() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"check_every": 0}, "check_every.*≥ 1.*got 0"),
        ({"check_every": True}, "check_every.*integer.*True"),
        ({"check_every": 2.5}, "check_every.*integer.*2.5"),
        ({"least_agreement": 1.5}, "least_agreement.*1.5"),
        ({"least_agreement": float("nan")}, "least_agreement.*nan"),
        ({"fallback": "own"}, "fallback.*'difference'.*'own'"),
        ({"form": "own"}, "form='own' with cross='auto'"),
        ({"cross_fraction": 0.5}, "cross_fraction with cross='auto'.*whole batch"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    for build in (LEAD, LEADStrategy):
        with pytest.raises(ConfigurationError, match=message):
            build(cross="auto", **settings)


@pytest.mark.parametrize("settings", [{"check_every": 5}, {"least_agreement": 0.1}, {"fallback": "difference"}])
@pytest.mark.parametrize("cross", ["exact", "difference", "extrapolated"])
def test_what_compares_forms_is_refused_where_there_is_one(cross, settings):
    with pytest.raises(ConfigurationError, match=f"Cannot compare forms with cross='{cross}'.*cross='auto'"):
        LEADStrategy(cross=cross, **settings)

"""The coupling: what is accepted, and the law that follows the momentum, held against spectral radii."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_trainer

from lightning_lead import ConfigurationError, GameStrategy, LeadGANModule, LEADStrategy
from lightning_lead.analysis import spectral_radius
from lightning_lead.analysis.play import Match
from lightning_lead.calculus.lookahead import Lookahead, momentum_lag
from lightning_lead.engine.named_rules import find_game
from lightning_lead.games import BilinearGame
from lightning_lead.rules import LEAD, LookaheadMinmax
from lightning_lead.rules._coupling import check_coupling, coupling_by_momentum

GAME = BilinearGame([[1.0]])


def sgd(beta_x, beta_y, *, nesterov=False):
    """One optimizer, of which the players' groups have momenta of their own."""

    def make(groups):
        own = zip(groups, (beta_x, beta_y), strict=True)
        return torch.optim.SGD([{**g, "momentum": b, "nesterov": nesterov and b > 0} for g, b in own], lr=1.0)

    return make


def growth(coupling, betas, *, lr=0.02, play="alternating", nesterov=False, cross="extrapolated"):
    """(radius − 1) in units of the product of both players' effective steps, which is what a unit of coupling buys."""
    rule, optimizer = LEAD(coupling, cross=cross), sgd(*betas, nesterov=nesterov)
    radius = spectral_radius(rule, GAME, lr=lr, play=play, optimizer=optimizer)
    steps = [lr / (1 - beta) for beta in betas]
    return (radius - 1) / (steps[0] * steps[1])


def lags(betas, *, nesterov=False):
    return [momentum_lag({"momentum": beta, "nesterov": nesterov}) for beta in betas]


# ---- the law --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cross", "betas"),
    [("extrapolated", (0.5, 0.5)), ("extrapolated", (0.8, 0.0)), ("extrapolated", (0.0, 0.8)), ("exact", (0.8, 0.0))],
)
def test_only_the_sum_of_what_the_couplings_have_above_the_lags_decides(betas, cross):
    """Whoever makes up for it: half the surplus of the sum is contraction, to first order in the steps."""
    for surplus, share in itertools.product((-0.2, 0.2), (0.0, 0.25, 1.0)):
        total = sum(lags(betas)) + surplus
        rate = growth({"x": share * total, "y": (1 - share) * total}, betas, cross=cross)
        assert rate == pytest.approx(-surplus / 2, abs=0.025), (surplus, share)  # the next order in the steps


@pytest.mark.parametrize(("nesterov", "betas"), [(False, (0.9, 0.5)), (True, (0.5, 0.5)), (True, (0.8, 0.0))])
def test_each_player_that_makes_up_for_its_own_lag_leaves_the_game_on_the_edge(nesterov, betas):
    """In alternating play; to rounding by heavy ball, to first order by Nesterov's momentum, which is younger."""
    edge = {"lr": 0.005, "nesterov": nesterov}
    x, y = lags(betas, nesterov=nesterov)
    assert abs(growth({"x": x, "y": y}, betas, **edge)) < (2e-3 if nesterov else 1e-8)
    x, y = lags(betas, nesterov=not nesterov)
    assert abs(growth({"x": x, "y": y}, betas, **edge)) > 0.1


@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.5, 0.5), (0.8, 0.3)])
def test_simultaneous_play_asks_for_half_a_step_more_of_each_player(betas):
    x, y = lags(betas)
    assert growth({"x": x, "y": y}, betas, play="simultaneous") == pytest.approx(0.5, abs=0.05)
    assert growth({"x": x + 0.5, "y": y + 0.5}, betas, play="simultaneous") == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.5, 0.5), (0.9, 0.0), (0.3, 0.8)])
def test_by_the_law_the_game_contracts_whoever_has_the_momentum(play, betas):
    """By half a step of each player."""
    assert growth("auto", betas, play=play, lr=0.002) == pytest.approx(-0.5, rel=0.05)
    x, y = (coupling_by_momentum(lag, simultaneous=play == "simultaneous") for lag in lags(betas))
    assert growth({"x": x, "y": y}, betas, play=play) == pytest.approx(growth("auto", betas, play=play), abs=1e-8)


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.5, 0.5), (0.3, 0.8)])
def test_with_n_inner_steps_the_law_stays_and_the_inner_player_s_surplus_counts_one_nth(n, betas, monkeypatch):
    step = Match.step
    monkeypatch.setattr(Match, "step", lambda match: step(match, [*[("x",)] * n, ("y",)]))
    x, y = lags(betas)
    assert abs(growth({"x": x, "y": y}, betas)) < 1e-8  # on the edge, as with one inner step
    for surplus_x, surplus_y in ((0.2, 0.0), (0.0, 0.2)):
        rate = growth({"x": x + surplus_x, "y": y + surplus_y}, betas, lr=0.005) / n  # x takes n steps
        assert rate == pytest.approx(-(surplus_x / n + surplus_y) / 2, rel=0.05)
    assert growth("auto", betas, lr=0.005) / n == pytest.approx(-(0.5 / n + 0.5) / 2, rel=0.05)


# ---- what is read of an optimizer -----------------------------------------------------------------------------------


def weights(count=2):
    return [torch.nn.Parameter(torch.ones(2)) for _ in range(count)]


@pytest.mark.parametrize(
    ("make", "lag"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 9.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), 8.1),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.5), 1.0),
        (lambda p: torch.optim.Adam(p, betas=(0.0, 0.9)), 0.0),
        (lambda p: torch.optim.AdamW(p, betas=(0.5, 0.999)), 1.0),
        (lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), betas=(torch.tensor(0.75), torch.tensor(0.9))), 3.0),
        (lambda p: torch.optim.NAdam(p, betas=(0.5, 0.9)), 0.5),
        (lambda p: torch.optim.RAdam(p, betas=(0.8, 0.9)), 4.0),
        (lambda p: torch.optim.Adamax(p, betas=(0.8, 0.9)), 4.0),
        (lambda p: torch.optim.RMSprop(p, momentum=0.5), 1.0),
    ],
    ids=["SGD", "momentum", "Nesterov", "dampening", "Adam", "AdamW", "tensors", "NAdam", "RAdam", "Adamax", "RMSprop"],
)
def test_the_lag_of_torch_s_optimizers(make, lag):
    x, y = weights()
    assert Lookahead({"x": [x], "y": [y]}, [make([x, y])]).lag("x") == pytest.approx(lag)


@pytest.mark.parametrize(("beta", "nesterov"), [(0.5, False), (0.8, False), (0.8, True), (0.0, False)])
def test_the_lag_is_the_mean_age_of_the_gradients_in_a_step(beta, nesterov):
    """Measured: gradient k alone is 1, and the step it still makes k steps later is its weight."""
    (x,) = weights(1)
    optimizer = torch.optim.SGD([x], lr=1.0, momentum=beta, nesterov=nesterov)
    moved = []
    for k in range(200):
        before, x.grad = x.detach().clone(), torch.full((2,), float(k == 0))
        optimizer.step()
        moved.append(float((before - x.detach())[0]))
    ages = sum(k * w for k, w in enumerate(moved)) / sum(moved)
    assert momentum_lag(optimizer.param_groups[0]) == pytest.approx(ages, rel=1e-5)  # float32


UNREADABLE = {
    "Adagrad": lambda groups: torch.optim.Adagrad(groups),
    "Adafactor": lambda groups: torch.optim.Adafactor(groups),
    "Rprop": lambda groups: torch.optim.Rprop(groups),
}


@pytest.mark.parametrize(
    ("name", "cross"),
    [*((name, "extrapolated") for name in UNREADABLE), ("Adagrad", "exact"), ("Adagrad", "difference")],
)
def test_a_momentum_that_cannot_be_read_is_refused_at_fit_start_and_a_number_serves(name, cross):
    gan = tiny_gan(game=LEADStrategy(cross=cross), optimizer=UNREADABLE[name])
    before = flat(gan)
    with pytest.raises(
        ConfigurationError, match=f"'discriminator'.*{name} has no betas and no momentum.*pass coupling="
    ):
        tiny_trainer(1).fit(gan, tiny_loader(24))
    assert torch.equal(before, flat(gan))
    gan = tiny_gan(game=LEADStrategy(1.0, cross=cross), optimizer=UNREADABLE[name])
    assert fit(gan, 1).global_step == 1


@pytest.mark.parametrize("rule", [LEAD(cross="extrapolated"), LookaheadMinmax(inner=LEAD())], ids=str)
def test_two_momenta_of_one_player_are_refused_at_fit_start(rule):
    class TwoMomenta(LeadGANModule):
        def configure_optimizers(self):
            first, *rest = self.generator.parameters()
            groups = [{"params": [first], "betas": (0.5, 0.9)}, {"params": rest}]
            return torch.optim.Adam([*groups, {"params": self.discriminator.parameters()}], lr=0.01, betas=(0.0, 0.9))

    with pytest.raises(ConfigurationError, match=r"'generator'.*lags of \[0.0, 1.0\]; pass coupling="):
        fit(TwoMomenta(*tiny_networks(), game=rule), 1)


def test_a_player_that_no_optimizer_holds_has_no_momentum():
    x, y = weights()
    with pytest.raises(ConfigurationError, match="'y'.*no optimizer holds it"):
        Lookahead({"x": [x], "y": [y]}, [torch.optim.SGD([x], lr=0.1)]).lag("y")


@pytest.mark.parametrize(
    "group",
    [{}, {"betas": ()}, {"momentum": 1.0}, {"momentum": -0.5}, {"betas": (True, 0.9)}, {"momentum": float("nan")}],
)
def test_what_is_no_momentum_is_not_taken_for_one(group):
    assert momentum_lag(group) is None


def test_without_a_trainer_the_law_says_that_it_needs_optimizers():
    from lightning_lead.calculus import GameOracle

    point, rule = GAME.point([1.0], [1.0]), LEAD(cross="extrapolated")
    oracle = GameOracle(point, [lambda p, wanted, *, replay: GAME.losses(p)])
    with pytest.raises(ConfigurationError, match="knows no optimizer.*a number for LEAD's coupling"):
        rule.direction(oracle, ["x"], rule.init(point))


# ---- in training ----------------------------------------------------------------------------------------------------


def flat(module):
    return torch.cat([p.detach().reshape(-1).clone() for p in module.parameters()])


def fit(gan, steps, **settings):
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(3)
    trainer.fit(gan, tiny_loader(24))
    return trainer


def two_momenta(groups):
    d, g = groups
    return torch.optim.Adam([{**d, "betas": (0.75, 0.9)}, {**g, "betas": (0.5, 0.9)}])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"cross": "extrapolated"}, (3.5, 1.5)),
        ({"cross": "exact"}, (3.5, 1.5)),
        ({"cross": "difference", "play": "simultaneous"}, (4.0, 2.0)),
    ],
)
def test_the_coupling_in_force_is_logged_by_player(settings, expected):
    trainer = fit(tiny_gan(game=LEADStrategy(**settings), optimizer=two_momenta), 2, log_every_n_steps=1)
    for metrics in (trainer.callback_metrics, trainer.logged_metrics):
        assert tuple(float(metrics[f"coupling/{name}"]) for name in ("discriminator", "generator")) == expected


def test_a_coupling_that_was_given_is_not_logged():
    trainer = fit(tiny_gan(game=LEADStrategy(1.0, cross="extrapolated")), 2, log_every_n_steps=1)
    assert not [name for name in trainer.callback_metrics if name.startswith("coupling")]


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_a_momentum_that_a_schedule_moves_is_read_at_every_step(kind):
    """OneCycleLR lets the momentum fall and rise; the coupling is that of the step that is being made."""
    optimizers = {
        "Adam": lambda groups: torch.optim.Adam(groups, betas=(0.9, 0.9)),
        "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    }
    seen = []

    class Watched(LeadGANModule):
        def log_game_step(self, record, notes):
            # the schedule steps just before the log
            scheduler = self.trainer.lr_scheduler_configs[0].scheduler
            seen.append((notes["coupling/generator"], momentum_lag(scheduler.optimizer.param_groups[1])))

    gan = Watched(
        *tiny_networks(),
        game=LEADStrategy(cross="extrapolated"),
        optimizer=optimizers[kind],
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.01, 6, base_momentum=0.5, max_momentum=0.9),
    )
    fit(gan, 4)
    couplings, lags_after = zip(*seen, strict=True)
    assert couplings[0] == pytest.approx(9.5)
    assert couplings[1:] == pytest.approx([lag + 0.5 for lag in lags_after[:-1]])
    assert min(couplings) < 2.5


def test_the_law_in_training_is_the_number_that_it_says():
    ends = [
        flat_of_a_run(LEADStrategy(coupling, cross="extrapolated"))
        for coupling in ("auto", {"discriminator": 3.5, "generator": 1.5}, {"discriminator": 1.5, "generator": 3.5})
    ]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def flat_of_a_run(game):
    gan = tiny_gan(game=game, optimizer=two_momenta)
    fit(gan, 3)
    return flat(gan)


# ---- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "coupling",
    [
        -0.1,
        float("nan"),
        float("inf"),
        "1",
        "Auto",
        "",
        None,
        True,
        [1.0, 1.0],
        {},
        {"x": 1.0},
        {"x": 1.0, "y": -1.0},
        {"x": 1.0, "y": "auto"},
        {"x": 1.0, "y": False},
    ],
    ids=str,
)
def test_what_is_no_coupling_is_refused_at_construction_and_the_error_names_what_works(coupling):
    for build in (LEAD, LEADStrategy, lambda c: LEAD(c, cross="extrapolated"), check_coupling):
        with pytest.raises(ConfigurationError, match="Cannot use coupling.*finite number ≥ 0.*'auto'"):
            build(coupling)


@pytest.mark.parametrize("cross", ["exact", "extrapolated"])
def test_a_coupling_of_wrong_players_is_refused_at_fit_start(cross):
    gan = tiny_gan(game=LEADStrategy({"generator": 1.0, "critic": 1.0}, cross=cross))
    with pytest.raises(ConfigurationError, match=r"give one number for each of \['discriminator', 'generator'\]"):
        fit(gan, 1)


def test_couplings_are_kept_as_numbers_of_their_own():
    given = {"x": 1, "y": 2}
    rule = LEAD(given)
    given["x"] = 5
    assert rule.coupling == {"x": 1.0, "y": 2.0}
    assert (LEAD().coupling, LEAD(2).coupling, LEAD("auto").needs.reads_momentum) == ("auto", 2.0, True)
    assert repr(LEAD(cross="extrapolated")) == "LEAD(coupling='auto', cross='extrapolated')"


@pytest.mark.parametrize("rule", LEAD.variants(), ids=repr)
def test_a_record_s_text_of_a_rule_is_a_game_that_can_be_asked_for(rule):
    assert vars(find_game(repr(rule)).rule) == vars(rule)


# ---- the old name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, 0.5, {"x": 1.0, "y": 0.5}], ids=str)
def test_alpha_is_the_old_name_which_warns_where_it_is_used(value):
    for build in (LEAD, LEADStrategy):
        with pytest.warns(FutureWarning, match="alpha is called coupling") as caught:
            built = build(alpha=value)
        assert (len(caught), caught[0].filename) == (1, __file__)
        rule = getattr(built, "rule", built)
        assert rule.coupling == value
        assert "alpha" not in repr(rule)
    with pytest.warns(FutureWarning, match="alpha is called coupling") as caught:
        assert rule.alpha == value
    assert caught[0].filename == __file__
    with pytest.warns(FutureWarning, match="alpha is called coupling"):
        assert find_game(f"LEAD(alpha={value!r}, cross='extrapolated')").rule.coupling == value


def test_both_names_together_are_refused():
    for build in (LEAD, LEADStrategy):
        with pytest.raises(ConfigurationError, match="alpha is the old name of coupling; pass coupling alone"):
            build(1.0, alpha=1.0)
    with pytest.raises(ConfigurationError, match="alpha and coupling together"):
        find_game("LEAD(coupling=1, alpha=1)")


def test_a_bad_alpha_is_refused_as_a_coupling():
    with pytest.warns(FutureWarning), pytest.raises(ConfigurationError, match="Cannot use coupling.*got -1"):
        LEAD(alpha=-1)


def test_the_paper_s_alpha_is_no_alias():
    """It is another number, a = α/η, and warns of nothing (a warning would be an error here)."""
    strategy, _ = LEADStrategy.from_paper(eta=0.5, beta=0.0, alpha=1.0)
    assert strategy.rule.coupling == 2.0


def test_a_strategy_and_a_rule_alone_are_the_same_game():
    ends = []
    for game in (
        LEADStrategy(cross="extrapolated"),
        GameStrategy(LEAD(cross="extrapolated")),
        LEAD(cross="extrapolated"),
    ):
        ends.append(flat_of_a_run(game))
    assert all(torch.equal(ends[0], end) for end in ends)

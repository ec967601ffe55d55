"""What a trainer does for rules: names, refusals at fit start, turns that are not finite, one player alone."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_lead import (
    ConfigurationError,
    DivergenceError,
    GameStrategy,
    LeadGANModule,
    LeadModule,
    LEADStrategy,
)
from lightning_lead.calculus import GameOracle
from lightning_lead.engine._probe import probe_game
from lightning_lead.engine.named_rules import find_game, game_names
from lightning_lead.rules import ACGD, CGD, LEAD, ExtraAdam, GradientPlay, LookaheadMinmax, PolyakMomentum


@pytest.mark.parametrize("name", game_names())
def test_every_name_trains(name):
    gan = tiny_gan(game=name)
    before = torch.cat([p.detach().reshape(-1).clone() for p in gan.parameters()])
    trainer = tiny_trainer(2)
    trainer.fit(gan, tiny_loader(24))
    after = torch.cat([p.detach().reshape(-1) for p in gan.parameters()])
    assert trainer.global_step == 2
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)


def test_names_take_settings_also_of_a_rule_inside_a_rule():
    game = find_game("LookaheadMinmax(steps=3, inner=LEAD(coupling=2.0), play='alternating', skip_limit=None)")
    assert isinstance(game.rule, LookaheadMinmax)
    assert (game.rule.steps, game.rule.inner.coupling, game.play, game.skip_limit) == (3, 2.0, "alternating", None)
    assert isinstance(find_game("lightning_lead.rules.lead.LEAD(coupling=0.5)").rule, LEAD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LEED", "choose one of ACGD"),
        ("LEAD(coupling)", "by name"),
        ("LEAD(3)", "by name"),
        ("LEAD(gamma=1)", "gamma"),
        ("LEAD(coupling=", "never closed|invalid syntax|Cannot read"),
        ("no.such.module.Rule", "no.such.module.Rule"),
        ("torch.nn.Linear", "dotted path of a rule"),
        ("ExtraAdam(play='alternating')", "alternating"),
    ],
)
def test_a_name_that_cannot_be_used_says_why(text, message):
    with pytest.raises(ConfigurationError, match=message):
        find_game(text)


# ---- refused at fit start -------------------------------------------------------------------------------------------


def test_a_zero_sum_solver_refuses_losses_that_are_not_opposites():
    with pytest.raises(ConfigurationError, match="CGD.*zero-sum.*gmres"):
        tiny_trainer(1).fit(tiny_gan(game=CGD("cg"), objective="non_saturating"), tiny_loader(24))
    tiny_trainer(1).fit(tiny_gan(game=CGD("cg"), objective="minimax"), tiny_loader(24))


def test_a_joint_rule_refuses_several_discriminator_steps_by_its_name():
    with pytest.raises(ConfigurationError, match="ODEGAN.*several discriminator steps"):
        tiny_gan(game="ODEGAN", discriminator_steps=2)


def test_lookahead_around_differences_refuses_bf16_weights_as_its_inner_rule_does():
    gan = tiny_gan(game=LookaheadMinmax(inner=LEAD(cross="difference")), dtype=torch.float32)
    with pytest.raises(ConfigurationError, match=r"LookaheadMinmax\(LEAD\).*bf16-mixed"):
        tiny_trainer(1, precision="bf16-true").fit(gan, tiny_loader(24))


@pytest.mark.parametrize("rule", [LEAD(form="own", cross_fraction=0.5), LEAD(), CGD()], ids=str)
def test_fit_start_probes_with_the_cross_term_that_the_rule_will_ask_for(rule):
    class Recorder(GameOracle):
        def gradient(self, player, *, at=None, cross=None):
            if cross is not None:
                asked.append((player, cross.form, cross.fraction))
            return super().gradient(player, at=at, cross=None)

    def losses(point, wanted, *, replay):
        f = point["x"][0] @ point["y"][0]
        return {"x": f, "y": -f}

    point = {name: (torch.ones(2, dtype=torch.float64),) for name in ("x", "y")}
    for probed in (rule, LookaheadMinmax(inner=rule)):
        asked = []
        probe_game(Recorder(point, [losses]), nn.Module(), probed)
        assert asked == [(player, rule.needs.form, rule.needs.cross_fraction) for player in ("x", "y")]


def test_a_rule_that_takes_plain_steps_refuses_an_optimizer_with_a_memory():
    gan = tiny_gan(game="NegativeAdam")
    gan.configure_optimizers = lambda: torch.optim.Adam(gan.parameters())
    with pytest.raises(ConfigurationError, match="Adam.*NegativeAdam works out whole steps"):
        tiny_trainer(1).fit(gan, tiny_loader(24))
    gan = tiny_gan(game="NegativeAdam", optimizer=torch.optim.Adam)  # asked for by the recipe: replaced
    trainer = tiny_trainer(1)
    trainer.fit(gan, tiny_loader(24))
    assert type(trainer.optimizers[0]) is torch.optim.SGD


# ---- past extragradient ---------------------------------------------------------------------------------------------


class AsAWhole(LeadGANModule):
    """Losses that are taken as they are, so nothing is shared between the players."""

    def wanted_losses(self, batch, wanted):
        return super().wanted_losses(batch, wanted)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_past_extragradient_makes_its_fakes_once_at_the_look_ahead(clip):
    """Both players look at one point, so one forward serves both, and the weights are those of two."""

    def fitted(kind, game="PastExtragradient"):
        settings = {"generator_lr": 0.05, "discriminator_lr": 0.05, "clip": clip}
        gan, calls, counts = kind(*tiny_networks(batch_norm=True), game=game, **settings), [], []
        gan.generator.register_forward_hook(lambda *_: calls.append(None))
        gan.on_train_batch_end = lambda *_: counts.append(len(calls))
        torch.manual_seed(0)
        tiny_trainer(4).fit(gan, tiny_loader(24))
        assert gan.generator[1].num_batches_tracked == 4
        return torch.cat([p.detach().reshape(-1) for p in gan.parameters()]), counts[-1] - counts[-2]

    shared, calls = fitted(LeadGANModule)
    apart, calls_of_own_losses = fitted(AsAWhole)
    assert calls == calls_of_own_losses == 1
    assert (shared - apart).abs().max() < 1e-12
    assert (shared - fitted(LeadGANModule, "SimultaneousGDA")[0]).abs().max() > 1e-3


# ---- solves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("iterations", "failed"), [(1, 3.0), (50, 0.0)])
@pytest.mark.filterwarnings("ignore:.*relative residual")
def test_solves_that_do_not_converge_are_logged(iterations, failed):
    gan = tiny_gan(game=ACGD(tolerance=1e-9, max_iterations=iterations))
    trainer = tiny_trainer(3, log_every_n_steps=1)
    trainer.fit(gan, tiny_loader(24))
    assert trainer.callback_metrics["solver/not_converged"] == failed
    assert (trainer.callback_metrics["solver/iterations"] == 1) == (iterations == 1)
    assert (trainer.callback_metrics["solver/residual"] > 1e-9) == (iterations == 1)


# ---- turns that are not finite --------------------------------------------------------------------------------------


class Spoilt(LeadModule):
    """xy, whose loss is not a number in some game steps."""

    def __init__(self, spoilt, **settings):
        super().__init__(learning_rates=0.1, **settings)
        self.x, self.y, self.spoilt = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), spoilt

    def players(self):
        return {"x": [self.x], "y": [self.y]}

    def player_losses(self, batch):
        f = (self.x * self.y).sum() * (float("nan") if self.trainer.global_step in self.spoilt else 1.0)
        return {"x": f, "y": -f}


def fit(module, steps, **settings):
    trainer = tiny_trainer(steps, log_every_n_steps=1, **settings)
    trainer.fit(module, DataLoader(torch.zeros(64, 1), 2))
    return trainer


@pytest.mark.parametrize(
    "game", [LEADStrategy(), *map(GameStrategy, (LookaheadMinmax(2), PolyakMomentum(), ExtraAdam()))]
)
def test_a_spoilt_step_is_skipped_as_if_it_had_not_been(game):
    """Weights, the optimizer's memory and the rule's are those of a run without it; the step is counted."""
    whole = Spoilt(spoilt={3}, game=game)
    trainer = fit(whole, 6)
    assert trainer.global_step == 6
    turns = 1 if game.play == "simultaneous" else 2
    assert whole.game.skipped == turns
    assert trainer.callback_metrics["skipped_turns"] == turns
    without = Spoilt(spoilt=set(), game=type(game)() if isinstance(game, LEADStrategy) else GameStrategy(game.rule))
    fit(without, 5)
    assert torch.equal(whole.x, without.x)
    assert torch.equal(whole.y, without.y)


def test_too_many_in_a_row_end_the_training_and_name_the_rule_and_the_norms():
    module = Spoilt(spoilt=set(range(2, 100)), game=GameStrategy(GradientPlay(), skip_limit=3))
    with pytest.raises(DivergenceError, match="GradientPlay were not finite in 4 turns of 'x' in a row.*norms: x nan"):
        fit(module, 50)
    reference = Spoilt(spoilt=set(), game="GradientPlay")
    fit(reference, 2)
    assert torch.equal(module.x, reference.x)  # nothing is lost


class Lopsided(Spoilt):
    """From the third game step on the loss of one player alone is not a number."""

    def __init__(self, player, **settings):
        super().__init__(spoilt=set(), **settings)
        self.player = player

    def player_losses(self, batch):
        losses = super().player_losses(batch)
        spoilt = self.trainer.global_step >= 2
        return {name: v * float("nan") if spoilt and name == self.player else v for name, v in losses.items()}


@pytest.mark.parametrize("player", ["x", "y"])
def test_one_player_that_can_never_move_ends_alternating_training_though_the_other_one_can(player):
    module = Lopsided(player, game=GameStrategy(GradientPlay(), skip_limit=3))
    message = f"GradientPlay were not finite in 4 turns of '{player}' in a row.*norms: {player} nan"
    with pytest.raises(DivergenceError, match=message):
        fit(module, 50)
    assert module.game.skipped == 4
    reference = Spoilt(spoilt=set(), game="GradientPlay")
    fit(reference, 2)
    other = "y" if player == "x" else "x"
    assert torch.equal(getattr(module, player), getattr(reference, player))
    assert not torch.equal(getattr(module, other), getattr(reference, other))  # it has played on


def test_in_simultaneous_play_both_players_turns_are_counted_and_the_norms_say_whose_it_is():
    module = Lopsided("y", game=GameStrategy(ExtraAdam(), skip_limit=3))
    with pytest.raises(DivergenceError, match="ExtraAdam were not finite in 4 turns of 'x' and 'y' in a row.*y nan"):
        fit(module, 50)


@pytest.mark.parametrize(("player", "steps"), [("discriminator", 2), ("generator", 4)])
def test_turns_are_counted_by_player_with_several_discriminator_steps(player, steps):
    """Three turns of the discriminator per game step reach a limit of three in the second step, one in the fourth."""

    class Broken(LeadGANModule):
        def generator_loss(self, fake_logits):
            return super().generator_loss(fake_logits) * (float("nan") if player == "generator" else 1.0)

        def discriminator_loss(self, real_logits, fake_logits):
            return super().discriminator_loss(real_logits, fake_logits) * (
                float("nan") if player == "discriminator" else 1.0
            )

    gan = Broken(*tiny_networks(), game=GameStrategy(GradientPlay(), skip_limit=3), discriminator_steps=3)
    trainer = tiny_trainer(20)
    with pytest.raises(DivergenceError, match=f"in 4 turns of '{player}' in a row"):
        trainer.fit(gan, tiny_loader(24))
    assert trainer.global_step == steps - 1


def test_without_a_limit_nobody_looks():
    module = Spoilt(spoilt={1}, game=GameStrategy(GradientPlay(), skip_limit=None))
    fit(module, 3)
    assert torch.isnan(module.x).all()


def test_a_direction_whose_square_overflows_is_finite():
    module = Spoilt(spoilt=set(), game="GradientPlay")
    module.x.data.fill_(1e25)
    fit(module, 1)
    assert module.game.skipped == 0


@pytest.mark.parametrize("spoilt", [0, 1, 2])
def test_the_cross_term_of_the_first_turn_that_moves_is_logged(spoilt):
    """Whichever discriminator turn of three is skipped."""

    class Broken(LeadGANModule):
        def game_turns(self, batch):
            turns = super().game_turns(batch)
            if self.global_step == 2:
                turns[spoilt].micro_batches[0].real.fill_(float("nan"))
            return turns

    gan = Broken(*tiny_networks(), game=LEADStrategy(1.0), discriminator_steps=3)
    tiny_trainer(3, log_every_n_steps=1).fit(gan, tiny_loader(24))
    seen = gan.last_step.statistics["discriminator"]
    assert gan.game.skipped == 1
    assert seen.cross_norm > 0
    assert -1 <= seen.cosine <= 1
    assert bool(seen.gradient_norm.isnan()) is (spoilt == 2)  # that of the last turn


def test_skipped_turns_are_counted_across_a_resume(tmp_path):
    module = Spoilt(spoilt={1})
    fit(module, 2).save_checkpoint(tmp_path / "a.ckpt")
    again = Spoilt(spoilt=set())
    trainer = tiny_trainer(4)
    trainer.fit(again, DataLoader(torch.zeros(64, 1), 2), ckpt_path=tmp_path / "a.ckpt")
    assert again.game.skipped == 2
    saved = module.game.state_dict()
    assert saved["skipped_in_a_row"] == {"x": 1, "y": 1}
    old = GameStrategy(module.game.rule)  # of an earlier version, which had one number for both players
    old.load_state_dict({**saved, "skipped_in_a_row": 2})
    assert old.state_dict()["skipped_in_a_row"] == {}


# ---- one player -----------------------------------------------------------------------------------------------------


class Bowl(LeadModule):
    """One player in a potential well."""

    def __init__(self, game):
        super().__init__(game=game, learning_rates=0.1, optimizer=torch.optim.SGD)
        self.x = nn.Parameter(torch.tensor([1.0, -2.0]))

    def players(self):
        return {"x": [self.x]}

    def player_losses(self, batch):
        return {"x": self.x.square().sum() / 2}


def test_one_player_descends_and_rolls():
    descended, rolled = Bowl("GradientDescent"), Bowl(PolyakMomentum(0.5))
    fit(descended, 10)
    fit(rolled, 10)
    assert torch.allclose(descended.x, 0.9**10 * torch.tensor([1.0, -2.0]))
    x, before = torch.tensor([1.0, -2.0]), torch.tensor([1.0, -2.0])
    for _ in range(10):
        x, before = x + 0.5 * (x - before) - 0.1 * x, x
    assert torch.allclose(rolled.x, x)
    with pytest.raises(ConfigurationError, match="1 players"):
        fit(Bowl("LEAD"), 1)

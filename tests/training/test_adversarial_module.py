"""`AdversarialModule`: the loops of translators, autoencoders and vocoders, and cross terms of the adversarial part."""

from __future__ import annotations

import copy

import pytest
import torch
from by_hand import ByHand
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny import tiny_trainer
from torch import nn
from torch.nn.functional import l1_loss, relu, softplus
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lightning_lead import AdversarialModule, ConfigurationError, LEADStrategy
from lightning_lead.calculus import CrossTerm
from lightning_lead.calculus._terms import COUPLED

STEPS = 6


class Critic(nn.Module):
    """Logits, and the features that they are made of."""

    def __init__(self, width, shows):
        super().__init__()
        self.first, self.last, self.shows = nn.Linear(4, width), nn.Linear(width, 1), shows

    def forward(self, x):
        features = torch.tanh(self.first(x))
        logits = self.last(features)
        return (logits, [features, features * 2]) if self.shows else logits


class Module(AdversarialModule):
    """Points of 4 numbers from points of 3, near the targets."""

    def task_losses(self, outputs, inputs, targets):
        return {"l1": 3 * l1_loss(outputs, targets), "small": 0.1 * outputs.square().mean()}

    def last_layer(self):
        return self.generator[-1].weight


def build(kind=Module, critics=1, shows=False, **settings):
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    named = {"wide": Critic(6, shows), "narrow": Critic(3, shows)}
    discriminators = named if critics == 2 else named["wide"]
    given = {"optimizer": torch.optim.SGD, "generator_lr": 0.05, "discriminator_lr": 0.05, "game": "AlternatingGDA"}
    return kind(generator, discriminators, **(given | settings)).double()


def data(count=STEPS * 8):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(count, n, generator=generator, dtype=torch.float64) for n in (3, 4))
    return DataLoader(TensorDataset(x, y), 8)


def fit(module, steps=STEPS, loader=None, **settings):
    trainer = tiny_trainer(steps, log_every_n_steps=1, **settings)
    trainer.fit(module, data() if loader is None else loader)
    return trainer


def loop(module, generator_loss, discriminator_loss, *, d_every=1, start=0, generator_first=False):
    """Plain updates of a copy, with losses of (module, x, y, step)."""
    module = copy.deepcopy(module)
    optimizers = {
        "discriminator": torch.optim.SGD(module.discriminators.parameters(), 0.05),
        "generator": torch.optim.SGD(module.generator.parameters(), 0.05),
    }
    losses = {"discriminator": discriminator_loss, "generator": generator_loss}
    for step, (x, y) in enumerate(data()):
        for player in reversed(losses) if generator_first else losses:
            if player == "discriminator" and (step % d_every or step < start):
                continue
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            losses[player](module, x, y, step).backward()
            optimizers[player].step()
    return module


def furthest(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def task(module, x, y):
    fakes = module.generator(x)
    return fakes, 3 * l1_loss(fakes, y), 0.1 * fakes.square().mean()


def test_a_translator_with_a_late_start_a_ramp_and_a_cadence_is_its_loop():
    module = build(weight=0.7, start=2, ramp=3, discriminator_every=2, objective="hinge", generator_first=True)

    def generator_loss(module, x, y, step):
        fakes, l1, small = task(module, x, y)
        scale = 0 if step < 2 else min(1, (step - 1) / 3)
        return l1 + small - scale * 0.7 * module.discriminators["discriminator"](fakes).mean()

    def discriminator_loss(module, x, y, step):
        critic = module.discriminators["discriminator"]
        return relu(1 - critic(y)).mean() + relu(1 + critic(module.generator(x).detach())).mean()

    expected = loop(module, generator_loss, discriminator_loss, d_every=2, start=2, generator_first=True)
    start = copy.deepcopy(module)
    trainer = fit(module)
    assert furthest(module, expected) < 1e-12
    assert furthest(module, start) > 1e-3
    assert trainer.global_step == STEPS
    assert {"task/l1", "task/small", "loss/generator"} <= trainer.callback_metrics.keys()


@pytest.mark.parametrize("game", ["AlternatingGDA", LEADStrategy(0.0), LEADStrategy(0.5, cross="difference")], ids=str)
def test_parts_of_losses_are_logged_as_means_over_micro_batches(game):
    whole = build(weight=0.3, game=copy.deepcopy(game))
    fit(whole, steps=1)
    x, y = list(data())[1]
    expected = {"task/l1": 3 * l1_loss(whole(x), y).item(), "task/small": 0.1 * whole(x).square().mean().item()}
    for accumulate in (1, 4):
        module = build(weight=0.3, game=copy.deepcopy(game), accumulate=accumulate)
        logged = fit(module, steps=2).callback_metrics
        assert {name: float(logged[name]) for name in expected} == pytest.approx(expected, rel=1e-6)
        kept = len(module._parts["task/l1"])
        module.player_losses([x, y])
        assert len(module._parts["task/l1"]) == kept  # an evaluation of one's own leaves nothing behind


def test_an_adaptive_weight_is_its_loop():
    module = build(weight=0.8, adaptive_to="l1", objective="least_squares")

    def generator_loss(module, x, y, step):
        fakes, l1, small = task(module, x, y)
        fooled = 0.5 * (module.discriminators["discriminator"](fakes) - 1).square().mean()
        last = module.generator[-1].weight
        pull, push = (torch.autograd.grad(v, last, retain_graph=True)[0].norm() for v in (l1, fooled))
        return l1 + small + 0.8 * (pull / (push + 1e-4)).clamp(max=1e4).detach() * fooled

    def discriminator_loss(module, x, y, step):
        critic = module.discriminators["discriminator"]
        return 0.5 * ((critic(y) - 1).square().mean() + critic(module.generator(x).detach()).square().mean())

    expected = loop(module, generator_loss, discriminator_loss)
    assert "adversarial_weight" in fit(module).callback_metrics
    assert furthest(module, expected) < 1e-12


@pytest.mark.parametrize("objective", ["least_squares", "relativistic_average"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_vocoder_s_discriminators_are_weighed_and_their_features_matched_as_in_a_loop(objective, ahead):
    game = LEADStrategy(0.5, cross="extrapolated") if ahead else "AlternatingGDA"
    settings = {"discriminator_weights": {"narrow": 0.3}, "feature_matching": 2.0, "objective": objective}
    module = build(critics=2, shows=True, game=game, **settings)
    twin = copy.deepcopy(module)
    weights = {"wide": 1.0, "narrow": 0.3}

    def generator_loss(x, y):
        fakes, l1, small = task(twin, x, y)
        total = l1 + small
        for name, critic in twin.discriminators.items():
            (r, of_reals), (t, of_fakes) = critic(y), critic(fakes)
            fooled = 0.5 * (t - 1).square().mean()
            if objective == "relativistic_average":
                fooled = softplus(r.mean() - t).mean() + softplus(r - t.mean()).mean()
            matched = sum(l1_loss(a, b) for a, b in zip(of_fakes, of_reals, strict=True))
            total = total + weights[name] * (fooled + 2.0 * matched)
        return total

    def discriminator_loss(x, y):
        total, fakes = 0.0, twin.generator(x).detach()
        for name, critic in twin.discriminators.items():
            r, t = critic(y)[0], critic(fakes)[0]
            loss = 0.5 * ((r - 1).square().mean() + t.square().mean())
            if objective == "relativistic_average":
                loss = softplus(t.mean() - r).mean() + softplus(t - r.mean()).mean()
            total = total + weights[name] * loss
        return total

    players = {name: list(parameters) for name, parameters in twin.players().items()}
    coupling = dict.fromkeys(players, 0.5 if ahead else 0.0)
    hand = ByHand(players, lambda parameters: torch.optim.SGD(parameters, 0.05), coupling)
    for x, y in data():
        hand.turn(discriminator=lambda x=x, y=y: discriminator_loss(x, y))
        hand.turn(generator=lambda x=x, y=y: generator_loss(x, y))
    fit(module)
    assert furthest(module, twin) < 1e-12


def test_a_loss_is_evaluated_once_per_turn_and_the_generator_not_differentiated_in_the_other_s():
    seen = []

    class Watched(Module):
        def forward(self, inputs):
            seen.append((self.is_repeat, torch.is_grad_enabled()))
            return super().forward(inputs)

    fit(build(Watched, game=LEADStrategy(cross="extrapolated")), steps=2)
    assert seen == [(False, False), (False, True)] * 2


# ---- exact LEAD ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("player", ["discriminator", "generator"])
@pytest.mark.parametrize("form", ["opponent", "own"])
@pytest.mark.parametrize("settings", [{}, {"critics": 2, "shows": True, "feature_matching": 2.0, "start": 3}])
def test_the_cross_term_is_that_of_the_whole_losses(player, form, settings):
    """The task losses have no part in it, so leaving them out changes nothing: double backward of the whole."""
    game = LEADStrategy(0.7, form=form)
    module = build(game=game, weight=0.7, **settings)
    module.start = 0
    module.trainer = tiny_trainer(1)
    live = {name: list(parameters) for name, parameters in module.players().items()}
    opponent = "generator" if player == "discriminator" else "discriminator"
    batch = next(iter(data()))
    (turn,) = (turn for turn in module.game_turns(batch) if turn.players == (player,))
    delta = tuple(0.1 * torch.randn_like(p) for p in live[opponent])
    mine = module._oracle(turn, live, 7).gradient(player, cross=CrossTerm(0.7, delta, form))
    values = module.wanted_losses(batch, frozenset(live))
    of, sign = (opponent, -1) if form == "opponent" else (player, 1)
    grads = torch.autograd.grad(values[player], live[player], retain_graph=True)
    field = torch.autograd.grad(values[of], live[opponent], create_graph=True, allow_unused=True)
    product = sum((f * d).sum() for f, d in zip(field, delta, strict=True) if f is not None)
    terms = torch.autograd.grad(product, live[player], allow_unused=True)
    for d, g, c in zip(mine, grads, terms, strict=True):
        torch.testing.assert_close(d, g + 0.7 * sign * (0 if c is None else c), rtol=0, atol=1e-12)
    assert any(c is not None and c.abs().max() > 1e-4 for c in terms)


def test_task_losses_are_not_differentiated_twice():
    """A large network inside of a task loss, as a perceptual loss has: its FLOPs are those of plain play."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(4, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 4)).double()
    judge.requires_grad_(False)

    class Perceptual(Module):
        def task_losses(self, outputs, inputs, targets):
            return {"perceptual": l1_loss(judge(outputs), judge(targets))}

    class Mixed(Perceptual):
        """Does not tell the parts apart."""

        def wanted_losses(self, batch, wanted):
            losses = super().wanted_losses(batch, wanted)
            return {name: loss for name, loss in losses.items() if not name.startswith(COUPLED)}

    def flops(kind, game):
        counter = FlopCounterMode(display=False)
        with counter:
            fit(build(kind, game=game))
        return counter.get_total_flops()

    plain, exact = flops(Perceptual, "AlternatingGDA"), flops(Perceptual, LEADStrategy(0.5))
    assert flops(Mixed, LEADStrategy(0.5)) > 1.15 * exact
    assert exact > plain


@pytest.mark.parametrize("game", ["LEAD", "LEAD(form='own')", "LEAD(cross='difference')", "OptimisticAdam"])
def test_rules_that_look_again_play_a_game_that_begins_late(game):
    module = build(game=game, start=3, critics=2, shows=True, feature_matching=1.0, optimizer=None)
    start = copy.deepcopy(module)
    fit(module, steps=3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.discriminators.parameters(), start.discriminators.parameters(), strict=True)
    )
    module = build(game=game, start=3, critics=2, shows=True, feature_matching=1.0, optimizer=None)
    fit(module)
    assert furthest(module.discriminators, start.discriminators) > 1e-5


# ---- resume, refusals ------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    def make():
        return build(game="LEAD", critics=2, start=1, ramp=4, discriminator_every=2)

    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    whole, resumed = make(), make()
    loader = data(3 * 8)  # an epoch has 3 steps
    fit(whole, steps=8, loader=loader, callbacks=[keep], enable_checkpointing=True)
    again = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    trainer = tiny_trainer(8, callbacks=[again], enable_checkpointing=True)
    trainer.fit(resumed, loader, ckpt_path=str(tmp_path / "step=3.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, r"Cannot weigh weight by -1.0"),
        ({"feature_matching": float("nan")}, r"Cannot weigh feature_matching"),
        ({"start": -1}, r"start must be an integer ≥ 0"),
        ({"discriminator_every": 0}, r"discriminator_every must be an integer ≥ 1"),
        ({"discriminator_every": 2, "generator_every": 2}, r"nobody moves.*got 2 and 2"),
        ({"discriminator_weights": {"narow": 1.0}}, r"not there.*narow"),
        ({"game": "LEAD", "start": 1, "play": "simultaneous"}, r"wait in simultaneous play"),
        ({"objective": "hinges"}, r"got 'hinges'"),
        ({"start": 5, "generator_every": 2}, r"nobody moves.*got 2 and 5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    if "play" in settings:
        settings = {"game": LEADStrategy(play=settings["play"]), "start": settings["start"]}
    with pytest.raises(ConfigurationError, match=message):
        build(**settings)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigurationError, match=r"inputs from targets.*unpack_batch.*got list"):
        fit(build(), loader=DataLoader(TensorDataset(torch.zeros(8, 3), torch.zeros(8, dtype=torch.long)), 8))
    with pytest.raises(ConfigurationError, match=r"before the adversarial part begins at step 2.*task_losses"):
        fit(build(AdversarialModule, start=2))
    with pytest.raises(ConfigurationError, match=r"adapt the weight to 'l2'.*got \['l1', 'small'\]"):
        fit(build(adaptive_to="l2", start=1000), steps=1)  # and not after 1,000 steps
    with pytest.raises(
        ConfigurationError, match=r"discriminator 'discriminator' returns; make it return \(logits, \[feat"
    ):
        fit(build(feature_matching=1.0))


def test_outputs_of_another_shape_and_two_logits_in_a_tuple_are_refused():
    class Flat(Module):
        def forward(self, inputs):
            return super().forward(inputs).unsqueeze(1)

    with pytest.raises(ConfigurationError, match=r"one shape; make forward\(\) return \(8, 4\).*got \(8, 1, 4\)"):
        fit(build(Flat))

    class Both(Critic):
        def forward(self, x):
            return super().forward(x), super().forward(x)

    torch.manual_seed(1)
    with pytest.raises(ConfigurationError, match=r"'discriminator' returns.*one for each of several logits"):
        fit(Module(nn.Linear(3, 4), Both(6, False)).double())


@pytest.mark.parametrize("kind", [tuple, list])
def test_further_outputs_reach_the_task_losses_and_a_batch_may_be_both(kind):
    class Auto(AdversarialModule):
        def forward(self, inputs):
            return kind([self.generator(inputs), inputs.mean()])

        def task_losses(self, outputs, inputs, targets):
            return {"l1": l1_loss(outputs[0], targets), "second": outputs[1] ** 2}

    module = Auto(nn.Linear(4, 4), nn.Linear(4, 1)).double()
    x = torch.randn(16, 4, dtype=torch.float64)
    trainer = fit(module, steps=2, loader=DataLoader(TensorDataset(x), 8))
    assert trainer.global_step == 2
    assert module.player_losses(x).keys() == {"discriminator", "generator"}
    assert torch.equal(module.translate([x])[0], module.generator(x))


@pytest.mark.parametrize("start", [1, 3])
def test_the_discriminators_first_turn_is_that_of_plain_play(start):
    """What the generator has learned alone is no move in the game, so there is nothing to look ahead of yet."""
    weights = []
    for game in ("AlternatingGDA", LEADStrategy(2.0, cross="extrapolated"), LEADStrategy(2.0)):
        module = build(game=game, start=start)
        fit(module, steps=start + 1)
        weights.append(module.discriminators["discriminator"].first.weight.detach())
    assert torch.equal(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=1e-13)
    module = build(game=LEADStrategy(2.0, cross="extrapolated"), start=start)
    fit(module, steps=start + 2)
    plain = build(start=start)
    fit(plain, steps=start + 2)
    assert furthest(module, plain) > 1e-6


def test_an_adaptive_weight_is_one_constant_of_an_update():
    ratios = []

    class Watched(Module):
        def _adapted(self, task, adversarial):
            ratios.append(super()._adapted(task, adversarial))
            return ratios[-1]

    fit(build(Watched, adaptive_to="l1", game="LEAD(cross='difference')"), steps=3)
    # two looks at the first batch share one; then one per turn of the generator
    assert len(ratios) <= 1 + 3

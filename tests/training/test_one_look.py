"""How often a loss is evaluated: once per turn where one gradient is asked for; elsewhere as often as it bears."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny import tiny_loader, tiny_networks, tiny_trainer
from torch import nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint
from torchmetrics import MeanMetric

from lightning_lead import GameStrategy, LeadGANModule, LeadMixin, LEADStrategy, rules
from lightning_lead._checks import is_class
from lightning_lead._errors import ConfigurationError, DifferentiationError, HigherDerivativeError
from lightning_lead.rules.base import AbstractGameRule

RULES = [rule for name in rules.__all__ if is_class(rule := getattr(rules, name))]
VARIANTS = [
    v for rule in RULES if issubclass(rule, AbstractGameRule) and rule is not AbstractGameRule for v in rule.variants()
]
ONCE = [v for v in VARIANTS if v.needs.evaluates_once and not v.needs.requires_sgd]
OWN = ["LEAD(form='own')", "LEAD(cross='difference')", "LEAD(cross='auto')", "ExtraAdam"]  # ask for one loss in a turn
AGAIN = ["LEAD", "LEAD(form='own')", "LEAD(cross='difference')", "LEAD(cross='auto')", "ExtraAdam"]


class Game(LeadMixin, pl.LightningModule):
    """A GAN on points in float64, a loss per player."""

    def __init__(self, game: Any = "GradientPlay", **settings: Any) -> None:
        super().__init__(game=game, **settings)
        torch.manual_seed(3)
        self.generator = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.discriminator = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def players(self):
        return {"d": self.discriminator.parameters(), "g": self.generator.parameters()}

    def d_loss(self, batch):
        (real,) = batch
        return softplus(-self.discriminator(real)).mean() + softplus(self.discriminator(self.generator(real))).mean()

    def g_loss(self, batch):
        return softplus(-self.discriminator(self.generator(batch[0]))).mean()

    def configure_optimizers(self):
        return [torch.optim.SGD(network.parameters(), lr=0.1) for network in (self.discriminator, self.generator)]


def fit(module: pl.LightningModule, steps: int = 3, **settings: Any) -> pl.Trainer:
    torch.manual_seed(4)
    trainer = tiny_trainer(steps, **settings)
    trainer.fit(module, tiny_loader(24))
    return trainer


PLAYS = [(game, play) for game in ONCE for play in game.plays]
FROM_ONE_POINT = [(game, play) for game, play in PLAYS if play == "alternating" or not game.needs.displaces]


# ---- one gradient, one evaluation -----------------------------------------------------------------------------------


class Impure(Game):
    """A loop as it is found: a pool, two codebooks, noise of three kinds, an adaptive weight, a metric, a counter."""

    def __init__(self, game: Any = "GradientPlay") -> None:
        super().__init__(game)
        self.asked, self.pool, self.noise = Counter[str](), [], np.random.default_rng(0)
        self.register_buffer("codebook", torch.ones(2, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
        self.seen = MeanMetric()

    def d_loss(self, batch):
        self.asked["d"] += 1
        (real,) = batch
        self.seen.update(real.mean())
        self.pool.append(self.generator(real).detach())
        fakes = self.pool[self.noise.integers(len(self.pool))] * self.frozen
        return (
            softplus(-self.discriminator(real + 0.1 * random.random())).mean()
            + softplus(self.discriminator(fakes)).mean()
        )

    def g_loss(self, batch):
        self.asked["g"] += 1
        fakes = self.generator(batch[0])
        content = (fakes * self.codebook.clone() - batch[0]).square().mean()
        self.codebook.mul_(0.9).add_(0.1 * fakes.detach().mean(0))
        self.frozen.data.mul_(0.99)
        adversarial = softplus(-self.discriminator(fakes + 0.1 * np.random.rand())).mean()
        sizes = [
            torch.autograd.grad(x, self.generator[-1].weight, retain_graph=True)[0].norm()
            for x in (content, adversarial)
        ]
        return content + sizes[0] / (sizes[1] + 1e-4) * adversarial


def test_plain_play_of_impure_losses_is_the_loop_they_came_from():
    module, loop = Impure(), Impure()
    random.seed(7), np.random.seed(7)
    fit(module, 8)
    random.seed(7), np.random.seed(7)
    optimizers = loop.configure_optimizers()
    for batch, _ in zip(list(tiny_loader(24)) * 2, range(8), strict=True):
        for optimizer, loss in zip(optimizers, (loop.d_loss, loop.g_loss), strict=True):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
    assert module.asked == loop.asked == {"d": 8, "g": 8}
    for (name, a), b in zip(module.state_dict().items(), loop.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=name)
    assert module.seen.compute() == loop.seen.compute()


@pytest.mark.parametrize(("game", "play"), PLAYS, ids=repr)
def test_a_turn_evaluates_the_moving_player_s_loss_once_from_the_first_step_on(game, play):
    module = Impure(GameStrategy(game, play=play))
    fit(module, 3, log_every_n_steps=1)
    assert module.asked == {"d": 3, "g": 3}
    # where players look from two points, the second one's evaluation moves no buffers
    assert module.generator[1].num_batches_tracked == (6 if (game, play) in FROM_ONE_POINT else 3)
    assert module.seen._update_count == 3


@pytest.mark.parametrize("game", [game for game, play in FROM_ONE_POINT if play == "simultaneous"], ids=repr)
def test_simultaneous_play_evaluates_both_losses_together(game):
    """Also where one function returns both, and statistics move as often as in the loop."""

    class Both(Game):
        asked = 0

        def player_losses(self, batch):
            self.asked += 1
            logits = self.discriminator(self.generator(batch[0]))
            return {
                "d": softplus(-self.discriminator(batch[0])).mean() + softplus(logits).mean(),
                "g": softplus(-logits).mean(),
            }

    module = Both(GameStrategy(game, play="simultaneous"))
    fit(module)
    assert module.asked == module.generator[1].num_batches_tracked == 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_both_losses_together_give_the_weights_of_the_loop(accumulate):
    module, loop = (
        Game(GameStrategy(rules.GradientPlay(), play="simultaneous"), accumulate=accumulate) for _ in range(2)
    )
    fit(module)
    optimizers = loop.configure_optimizers()
    for batch, _ in zip(tiny_loader(24), range(3), strict=False):
        for optimizer in optimizers:
            optimizer.zero_grad()
        gradients = Counter()
        for part in batch[0].chunk(accumulate):
            for name, player in loop.players().items():
                params = tuple(player)
                loss = loop.player_loss(name, [part]) / accumulate
                for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
                    gradients[p] = gradients[p] + g
        for p, g in gradients.items():
            p.grad = g
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(module.parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("game", "play"), FROM_ONE_POINT, ids=repr)
def test_a_gan_is_not_looked_at_before_its_first_turn(game, play):
    """The first game step calls both networks as often as the third one."""
    calls, steps = Counter[str](), []
    networks = tiny_networks()
    for name, network in zip("GD", networks, strict=True):
        network.register_forward_hook(lambda *_, name=name: calls.update(name))

    class Watched(LeadGANModule):
        def training_step(self, batch, batch_idx):
            calls.clear()
            super().training_step(batch, batch_idx)
            steps.append(dict(calls))

    fit(Watched(*networks, game=GameStrategy(game, play=play)))
    assert steps == [{"G": 2, "D": 3} if play == "alternating" else {"G": 1, "D": 2}] * 3


@pytest.mark.parametrize("game", [*AGAIN, "LEAD(cross='extrapolated')", "GradientPlay", "ConsensusOptimization"])
@pytest.mark.parametrize("both", [False, True])
def test_a_loss_may_take_a_derivative_by_either_player_s_parameters(game, both):
    """As the weight of VQGAN and a path length do, whoever moves."""

    class Weighted(Game):
        def weighted(self, batch, name):
            loss = super().d_loss(batch) if name == "d" else super().g_loss(batch)
            by = (self.generator[-1].weight, self.discriminator[0].weight)
            slope = torch.autograd.grad(Game.d_loss(self, batch), by, retain_graph=True)
            return loss * (1 + sum(s.norm() for s in slope))

        if both:

            def player_losses(self, batch):
                return {name: self.weighted(batch, name) for name in ("d", "g")}

        def d_loss(self, batch):
            return self.weighted(batch, "d")

        def g_loss(self, batch):
            return self.weighted(batch, "g")

    assert fit(Weighted(game)).global_step == 3


class Checkpointed(Game):
    """Activation checkpointing, reentrant, in one network."""

    where = "generator"
    since = 0

    def call(self, name, x):
        network = getattr(self, name)
        if name == self.where and self.global_step >= self.since:
            return checkpoint(network, x.clone().requires_grad_(), use_reentrant=True)
        return network(x)

    def d_loss(self, batch):
        fakes, logits = self.call("generator", batch[0]), self.call("discriminator", batch[0])
        return softplus(-logits).mean() + softplus(self.call("discriminator", fakes)).mean()

    def g_loss(self, batch):
        return softplus(-self.call("discriminator", self.call("generator", batch[0]))).mean()


@pytest.mark.parametrize("where", ["generator", "discriminator"])
@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_reentrant_checkpoints_are_found_in_the_first_turns(where, play):
    plain, module = (
        Game(GameStrategy(rules.GradientPlay(), play=play)),
        Checkpointed(GameStrategy(rules.GradientPlay(), play=play)),
    )
    module.where = where
    fit(plain), fit(module)
    for a, b in zip(plain.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_a_reentrant_checkpoint_that_begins_later_loses_no_gradient():
    module = Checkpointed()
    module.since = 2
    with pytest.raises((DifferentiationError, RuntimeError), match="reentrant|checkpoint"):
        fit(module)


# ---- rules that look again ------------------------------------------------------------------------------------------


class Pool:
    def __init__(self) -> None:
        self.images = [torch.zeros(1)]


STATE = {
    "numpy's generator": (lambda m: setattr(m, "state", np.random.default_rng(0)), lambda m: m.state.random()),
    "torch's generator": (
        lambda m: setattr(m, "state", torch.Generator()),
        lambda m: torch.rand((), generator=m.state),
    ),
    "Python's generator": (lambda m: setattr(m, "state", random.Random(0)), lambda m: m.state.random()),
    "a list": (lambda m: setattr(m, "state", [0.0]), lambda m: m.state.append(1.0) or len(m.state)),
    "a deque": (lambda m: setattr(m, "state", deque(range(9))), lambda m: m.state.rotate() or m.state[0]),
    "a dict": (lambda m: setattr(m, "state", {"n": 0}), lambda m: m.state.update(n=m.state["n"] + 1) or m.state["n"]),
    "an object": (
        lambda m: setattr(m, "state", Pool()),
        lambda m: m.state.images.append(torch.ones(1)) or len(m.state.images),
    ),
    "a tensor": (
        lambda m: setattr(m, "state", torch.ones(2)),
        lambda m: setattr(m, "state", m.state * 0.9) or m.state.sum(),
    ),
    "a tensor, in place": (lambda m: setattr(m, "state", torch.ones(2)), lambda m: m.state.mul_(0.9).sum().clone()),
    "a frozen parameter": (
        lambda m: setattr(m, "state", nn.Parameter(torch.ones(2), requires_grad=False)),
        lambda m: m.state.data.mul_(0.9).sum().clone(),
    ),
    "a metric": (
        lambda m: setattr(m, "state", MeanMetric()),
        lambda m: m.state.update(1.0 + len(str(m))) or m.state.weight.clone(),
    ),
}


class Stateful(Game):
    """A discriminator's loss that moves state, and depends on it or not, with a guard or without."""

    def __init__(self, game: Any, kind: str, *, depends: bool, guarded: bool = False) -> None:
        super().__init__(game)
        make, self.move = STATE[kind]
        self.depends, self.guarded = depends, guarded
        make(self)

    def d_loss(self, batch):
        if self.guarded and self.is_repeat:
            return super().d_loss(batch)
        moved = self.move(self)
        return super().d_loss(batch) * (1 + float(moved) * self.depends)


@pytest.mark.parametrize("kind", STATE)
@pytest.mark.parametrize("depends", [True, False])
def test_state_that_moves_in_a_loss_is_refused_by_name(kind, depends):
    why = "they are not the same twice" if depends else "they move state"
    with pytest.raises(ConfigurationError, match=rf"Cannot play LEAD.*{why}.*is_repeat.*'extrapolated'.*got: state"):
        fit(Stateful("LEAD", kind, depends=depends))


@pytest.mark.parametrize("game", AGAIN)
def test_every_rule_that_looks_again_refuses_it_and_none_that_looks_once(game):
    with pytest.raises(ConfigurationError, match="losses of a batch more than once"):
        fit(Stateful(game, "a list", depends=True))
    for once in ("GradientPlay", "LEAD(cross='extrapolated')"):
        assert fit(Stateful(once, "a list", depends=True)).global_step == 3


@pytest.mark.parametrize("game", OWN)
@pytest.mark.parametrize("kind", ["a list", "a metric"])
def test_state_that_a_repeat_leaves_alone_moves_once_per_turn(game, kind):
    module = Stateful(game, kind, depends=False, guarded=True)
    fit(module, log_every_n_steps=1)
    assert (len(module.state) - 1 if kind == "a list" else module.state._update_count) == 3
    assert not module.is_repeat


def test_a_generator_that_the_module_does_not_hold_is_refused():
    elsewhere = np.random.default_rng(0)

    class Noisy(Game):
        def g_loss(self, batch):
            return super().g_loss(batch) * elsewhere.random()

    with pytest.raises(ConfigurationError, match=r"not the same twice.*nothing moved that the module holds"):
        fit(Noisy("LEAD"))


@pytest.mark.parametrize("game", AGAIN)
def test_the_global_random_numbers_bear_repetition(game):
    class Noisy(Game):
        def d_loss(self, batch):
            return super().d_loss([batch[0] + torch.rand(2, dtype=torch.float64) * random.random() * np.random.rand()])

    assert fit(Noisy(game)).global_step == 3


def test_features_that_a_layer_keeps_are_no_state():
    class Keeping(Game):
        def d_loss(self, batch):
            self.features = self.discriminator[0](batch[0])
            self.found = {"logits": self.features.sum(1)}
            return super().d_loss(batch)

    fit(Keeping("LEAD"))


def test_a_counter_gets_a_warning():
    class Counting(Game):
        calls = 0

        def d_loss(self, batch):
            self.calls += 1
            return super().d_loss(batch)

    with pytest.warns(UserWarning, match=r"calls moved in a loss, and LEAD evaluates losses of a batch more than once"):
        fit(Counting("LEAD"))


class Decaying(Game):
    """A buffer that every evaluation moves, as the codebook of a vector quantiser, and on which the losses depend."""

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        self.register_buffer("scale", torch.ones(2, dtype=torch.float64))

    def scaled(self, loss):
        self.scale = self.scale * torch.tensor([0.5, 1.0], dtype=torch.float64)  # and another one in place of it
        self.scale[1].mul_(0.5)
        return loss * self.scale.sum()

    def d_loss(self, batch):
        return self.scaled(super().d_loss(batch))

    def g_loss(self, batch):
        return self.scaled(super().g_loss(batch))


@pytest.mark.parametrize("game", OWN)
def test_a_buffer_moves_once_per_turn(game):
    module = Decaying(game)
    fit(module)
    wanted = 0.5 ** (3 if game == "ExtraAdam" else 6)  # half of ExtraAdam's turns only look ahead
    assert module.scale.tolist() == [wanted] * 2


def test_a_repeat_begins_with_the_buffers_of_the_first_evaluation():
    """Where nobody moves, a difference of two gradients is nothing: both are scaled alike."""

    class Still(Decaying):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    trainer = fit(Still(LEADStrategy(1.0, cross="difference")), log_every_n_steps=1)
    assert trainer.callback_metrics["gradient/g"] > 0
    assert trainer.callback_metrics["cross/g"] == trainer.callback_metrics["cross/d"] == 0


@pytest.mark.parametrize("game", [*OWN, "GradientPlay"])
def test_a_loss_logs_once_per_turn(game, monkeypatch):
    logged: list[str] = []
    monkeypatch.setattr(pl.LightningModule, "log", lambda self, name, *_, **__: logged.append(name))

    class Logging(Game):
        def g_loss(self, batch):
            loss = super().g_loss(batch)
            self.log("mine", loss)
            self.log_dict({"too": loss})
            return loss

    fit(Logging(game), log_every_n_steps=1)
    assert Counter(logged)["mine"] == Counter(logged)["too"] == 3


@pytest.mark.parametrize("game", [*AGAIN, "GradientPlay"])
def test_the_end_of_a_game_step_comes_once(game):
    class Ending(Game):
        def on_game_step_end(self, batch):
            self.ended = [*getattr(self, "ended", []), (self.global_step, len(batch[0]))]

    module = Ending(game)
    fit(module)
    assert module.ended == [(1, 24), (2, 24), (3, 24)]


# ---- writing into the batch -----------------------------------------------------------------------------------------


class Writer(nn.Module):
    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x):
        if not x.requires_grad:
            self.how(x)
        return x


@pytest.mark.parametrize(
    "game", ["GradientPlay", "LEAD", "LEAD(cross='difference')", "LEAD(play='simultaneous')", "ExtraAdam"]
)
@pytest.mark.parametrize("how", [lambda x: x.add_(0.5), lambda x: x[:, :1].clamp_(-1, 1), lambda x: x.copy_(x.flip(0))])
@pytest.mark.parametrize("gan", [True, False])
def test_a_layer_that_writes_into_the_batch_is_named(game, how, gan):
    if gan:
        generator, discriminator = tiny_networks()
        module = LeadGANModule(generator, nn.Sequential(Writer(how), *discriminator), game=game)
    else:
        module = Game(game)
        module.discriminator = nn.Sequential(Writer(how), *module.discriminator)
    with pytest.raises(ConfigurationError, match=r"write into the batch.*let discriminator\.0 \(Writer\) leave"):
        fit(module)


def test_losses_that_write_into_the_batch_are_named():
    class Writing(Game):
        def d_loss(self, batch):
            batch[0].mul_(2)
            return super().d_loss(batch)

    with pytest.raises(ConfigurationError, match="let the code of the losses leave"):
        fit(Writing())


# ---- gradient reversal ----------------------------------------------------------------------------------------------


class Scale(torch.autograd.Function):
    """The identity, with a backward that multiplies."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.by, None


class Domains(Game):
    """Features against a domain classifier, with one joint loss."""

    def __init__(self, game: Any, by: float) -> None:
        super().__init__(game)
        self.by = by

    def player_losses(self, batch):
        features = self.generator(batch[0])
        loss = softplus(self.discriminator(Scale.apply(features, self.by))).mean() + features.square().mean()
        return {"d": loss, "g": loss}


@pytest.mark.parametrize("game", ["LEAD", "LEAD(form='own')", "ConsensusOptimization"])
@pytest.mark.parametrize("by", [-1.0, -0.1, 0.5])
def test_a_layer_whose_backward_is_no_derivative_is_refused_where_gradients_are_differentiated(game, by):
    with pytest.raises(HigherDerivativeError, match=r"through Scale.*put the sign into the losses.*or use "):
        fit(Domains(game, by))


@pytest.mark.parametrize(
    "game", ["GradientPlay", "LEAD(cross='extrapolated')", "LEAD(cross='difference')", "LEAD(cross='auto')"]
)
def test_elsewhere_it_trains(game):
    assert fit(Domains(game, -1.0)).global_step == 3


def test_an_identity_with_the_right_backward_passes():
    apply = torch.autograd.Function.apply
    assert fit(Domains("LEAD", 1.0)).global_step == 3
    assert torch.autograd.Function.apply == apply

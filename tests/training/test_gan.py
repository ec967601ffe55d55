"""LeadGANModule under a real Trainer: what a game step is, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from tiny import TinyGenerator, tiny_gan, tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn

from lightning_lead import (
    ConfigurationError,
    DifferentiationError,
    GameStrategy,
    LeadGANModule,
    LeadModule,
    LEADStrategy,
)
from lightning_lead.rules import (
    ACGD,
    CGD,
    LEAD,
    ODEGAN,
    ConsensusOptimization,
    GradientPlay,
    LookaheadMinmax,
    SymplecticGradientAdjustment,
)
from lightning_lead.training._trainer_checks import check_trainer
from lightning_lead.training.mixin import LeadMixin


def fit(gan, steps=4, batch=24, **settings):
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(3)
    trainer.fit(gan, tiny_loader(batch))
    return trainer


def weights(gan):
    return torch.cat([p.detach().reshape(-1) for p in gan.parameters()])


@pytest.mark.parametrize("steps_d", [1, 3])
def test_global_step_counts_game_steps(steps_d):
    trainer = fit(tiny_gan(discriminator_steps=steps_d), steps=7)
    assert trainer.global_step == 7


def test_fast_dev_run_plays_exactly_that_many_game_steps():
    gan = tiny_gan(discriminator_steps=2)
    trainer = tiny_trainer(-1, fast_dev_run=2)
    trainer.fit(gan, tiny_loader(24))
    assert trainer.global_step == 2


def test_alpha_zero_equals_plain_gradient_play_bit_for_bit():
    results = []
    for game in (LEADStrategy(0.0), GameStrategy(GradientPlay())):
        gan = tiny_gan(game=game, batch_norm=True)
        fit(gan)
        results.append(weights(gan))
    assert torch.equal(*results)
    lead = tiny_gan(game=LEADStrategy(1.0), batch_norm=True)
    fit(lead)
    assert not torch.equal(results[0], weights(lead))


def test_plain_play_equals_a_hand_written_alternating_loop():
    """Adam, two discriminator steps, the module's own latents."""
    gan = tiny_gan(game=LEADStrategy(0.0), discriminator_steps=2)
    generator, discriminator = tiny_networks()
    drawn = []
    original = gan.sample_latents
    gan.sample_latents = lambda n: drawn.append(original(n)) or drawn[-1]
    fit(gan, steps=3)
    settings = {"lr": 0.01, "betas": (0.0, 0.9)}
    optimizer_g = torch.optim.Adam(generator.parameters(), **settings)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), **settings)
    soft, latents = nn.functional.softplus, iter(drawn)
    for batch in tiny_points().split(24)[:3]:
        # the module draws a step's latents in this order: each discriminator update, then the generator's
        z1, z2, z3 = next(latents), next(latents), next(latents)
        for real, z in zip(batch.split(12), (z1, z2), strict=True):
            loss = soft(-discriminator(real)).mean() + soft(discriminator(generator(z).detach())).mean()
            optimizer_d.zero_grad()
            loss.backward()
            optimizer_d.step()
        loss = soft(-discriminator(generator(z3))).mean()
        optimizer_g.zero_grad()
        loss.backward()
        optimizer_g.step()
    mine = torch.cat([p.detach().reshape(-1) for net in (generator, discriminator) for p in net.parameters()])
    assert (mine - weights(gan)).abs().max() < 1e-12


def test_accumulation_is_the_same_step_in_smaller_pieces():
    results = []
    for accumulate in (1, 2, 4):
        gan = tiny_gan(accumulate=accumulate)
        fit(gan)
        results.append(weights(gan))
    assert (results[0] - results[1]).abs().max() < 1e-12
    assert (results[0] - results[2]).abs().max() < 1e-12


def test_clip_bounds_each_player_s_direction():
    seen = {}

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                grads = [p.grad for p in group["params"] if p.grad is not None]
                if grads:
                    seen.setdefault(group["name"], []).append(torch.cat([g.reshape(-1) for g in grads]).norm().item())
            return super().step(closure)

    fit(tiny_gan(optimizer=lambda groups: Watched(groups), clip=0.01))
    assert set(seen) == {"generator", "discriminator"}
    assert all(norm == pytest.approx(0.01, rel=1e-4) for norms in seen.values() for norm in norms)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_what_a_rule_remembers_is_not_clipped(clip):
    """The heavy ball's direction of before, as the rule worked it out; the optimizer alone gets the clipped one."""
    handed, worked_out = [], []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            handed.append(
                [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
            )
            return super().step(closure)

    gan = tiny_gan(optimizer=lambda groups: Watched(groups), clip=clip, game="PolyakMomentum")
    play = gan.game.play_turn

    def played(oracle, players, parameters):
        done = play(oracle, players, parameters)
        worked_out.append([p.grad.clone() for name in players for p in parameters[name]])
        return done

    gan.game.play_turn = played
    fit(gan, steps=2)
    assert len(handed) == len(worked_out) == 4
    for direction, gradient in zip(worked_out, handed, strict=True):
        assert all(torch.equal(d, g) for d, g in zip(direction, gradient, strict=True)) == (clip is None)
    remembered = gan.game.state_dict()["state"]["direction"]
    for name, direction in zip(("discriminator", "generator"), worked_out[-2:], strict=True):
        assert all(torch.equal(d, r) for d, r in zip(direction, remembered[name], strict=True))


def test_the_scheduler_steps_once_per_game_step():
    gan = tiny_gan(discriminator_steps=3, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5))
    trainer = fit(gan, steps=3)
    assert [g["lr"] for g in trainer.optimizers[0].param_groups] == pytest.approx([0.01 / 8] * 2)


def test_batch_norm_moves_once_per_real_forward_and_extra_evaluations_leave_it():
    counts = {}
    for cross in ("exact", "difference"):
        for alpha in (0.0, 1.0):
            gan = tiny_gan(game=LEADStrategy(alpha, cross=cross), batch_norm=True)
            fit(gan, steps=4)
            counts[cross, alpha] = int(gan.generator[1].num_batches_tracked)
    assert set(counts.values()) == {4 * 2}  # one forward in the discriminator's turn, one in the generator's


def test_spectral_norm_vectors_do_not_notice_the_probe_or_the_cross_term():
    vectors = []
    for game in (LEADStrategy(0.0), LEADStrategy(1e-12)):
        gan = tiny_gan(game=game)
        torch.manual_seed(8)  # the vectors begin at random
        gan.discriminator[0] = nn.utils.parametrizations.spectral_norm(gan.discriminator[0])
        fit(gan)
        vectors.append(gan.discriminator[0].parametrizations.weight[0]._u.clone())
    assert torch.allclose(vectors[0], vectors[1], rtol=0, atol=1e-8)


def test_what_is_logged():
    trainer = fit(tiny_gan(), steps=4, log_every_n_steps=2)
    expected = {
        f"{kind}/{p}" for kind in ("loss", "gradient", "cross", "cross_cosine") for p in ("generator", "discriminator")
    }
    assert expected <= set(trainer.callback_metrics)
    assert -1 <= float(trainer.callback_metrics["cross_cosine/generator"]) <= 1


def test_the_cross_term_of_the_first_inner_step_is_logged():
    trainer = fit(tiny_gan(discriminator_steps=3), steps=2, log_every_n_steps=2)
    assert trainer.callback_metrics["cross/discriminator"] > 0


def test_training_does_not_touch_the_global_random_numbers():
    gan = tiny_gan()
    gan.discriminator.append(nn.Dropout(0.2))
    trainer = tiny_trainer(2)
    states = []
    gan.on_train_batch_end = lambda *_: states.append(torch.get_rng_state())
    trainer.fit(gan, tiny_loader(24))
    assert torch.equal(states[0], states[1])


class LabelledGenerator(TinyGenerator):
    num_classes = 4
    seen: ClassVar[list[torch.Tensor]] = []

    def forward(self, latents, labels):
        self.seen.append(labels)
        return super().forward(latents) * labels[:, None]


def test_labels_reach_networks_that_take_them():
    _, discriminator = tiny_networks()
    generator = LabelledGenerator(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    gan = LeadGANModule(generator, discriminator)
    data = torch.utils.data.TensorDataset(tiny_points(), torch.arange(96) % 4)
    tiny_trainer(1).fit(gan, torch.utils.data.DataLoader(data, 8))
    assert generator.seen[-1].tolist() == [0, 1, 2, 3] * 2
    assert set(gan.sample_labels(100).tolist()) == {0, 1, 2, 3}
    LabelledGenerator.num_classes = None
    with pytest.raises(ConfigurationError, match="num_classes"):
        gan.sample_labels(2)


# ---- any two players ------------------------------------------------------------------------------------------------


class Saddle(LeadModule):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.x, self.y = nn.Parameter(torch.ones(2).double()), nn.Parameter(torch.ones(2).double())

    def players(self):
        return {"x": [self.x], "y": [self.y]}

    def player_losses(self, batch):
        value = (self.x * self.y).sum()
        return {"x": value, "y": -value}


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_any_two_players_converge_on_a_saddle_where_plain_play_does_not(play):
    def distance(alpha):
        sgd = lambda groups: torch.optim.SGD(groups)  # noqa: E731
        game = LEADStrategy(alpha, play=play)
        saddle = Saddle(game=game, optimizer=sgd, learning_rates=0.3)
        tiny_trainer(300).fit(saddle, torch.utils.data.DataLoader(range(1000)))
        return weights(saddle).norm().item()

    assert distance(1.0) < 1e-3 < 1 < distance(0.0)


def test_missing_pieces_say_what_to_write():
    with pytest.raises(NotImplementedError, match=r"players\(\) is missing"):
        LeadModule().players()
    with pytest.raises(NotImplementedError, match=r"loss of 'x' is missing; define player_losses\(batch\).*x_loss"):
        LeadMixin().player_loss("x", None)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discriminator_steps": 0}, "discriminator_steps.*≥ 1"),
        ({"generator_batch_size": 0}, "generator_batch_size"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"accumulate": 0}, "accumulate"),
        ({"clip": -1.0}, "clip"),
        ({"generator_lr": float("nan")}, "generator_lr.*nan"),
        ({"objective": "sad"}, "hinge"),
        ({"game": 1}, "GameStrategy"),
        ({"game": "lead"}, "choose one of"),
        ({"game": LEADStrategy(play="simultaneous"), "discriminator_steps": 2}, "simultaneously"),
        ({"generator_batch_size": 3, "accumulate": 2}, "generator_batch_size=3"),
    ],
)
def test_bad_settings_are_refused_at_construction(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_gan(**settings)


def test_a_batch_that_does_not_divide_names_both_numbers():
    with pytest.raises(ConfigurationError, match="batch of 24 over .*5"):
        fit(tiny_gan(discriminator_steps=5))


def test_a_generator_of_the_wrong_shape_names_both_shapes():
    _, discriminator = tiny_networks()
    gan = LeadGANModule(TinyGenerator(nn.Linear(3, 5)).double(), discriminator)
    with pytest.raises(ConfigurationError, match=r"floats \(24, 2\).*\(got \(24, 5\)"):
        fit(gan)


def test_a_generator_that_never_meets_the_discriminator_is_found_at_once():
    class Detached(LeadGANModule):
        def forward(self, latents, labels=None):
            return super().forward(latents, labels).detach()

    with pytest.raises(DifferentiationError, match="generator.*depend"):
        fit(Detached(*tiny_networks()))


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class OnceLayer(nn.Module):
    def forward(self, x):
        return OnceDifferentiable.apply(x)


@pytest.mark.parametrize(
    ("rule", "advice", "instead"),
    [
        (LEAD(), "LEADStrategy(cross='extrapolated')", LEADStrategy(cross="extrapolated")),
        (
            LookaheadMinmax(inner=LEAD()),
            "LEADStrategy(cross='extrapolated')",
            LookaheadMinmax(inner=LEAD(cross="extrapolated")),
        ),
        (ODEGAN(), "ODEGAN(regularization=0)", ODEGAN(regularization=0)),
        *((rule, "game='ExtraAdam'", "ExtraAdam") for rule in (ConsensusOptimization(), CGD(), ACGD())),
        (SymplecticGradientAdjustment(), "game='ExtraAdam'", "ExtraAdam"),
    ],
    ids=str,
)
def test_what_is_advised_where_a_layer_has_no_second_derivative_fits_the_rule_and_trains(rule, advice, instead):
    def build(game):
        gan = tiny_gan(game=game)
        gan.discriminator.insert(2, OnceLayer())
        return gan

    with pytest.raises(DifferentiationError) as caught:
        fit(build(rule))
    assert f"Cannot play {rule.name}, which" in str(caught.value)
    assert f"Use {advice}" in str(caught.value).replace("a rule that differentiates once, such as ", "")
    assert fit(build(instead), steps=2).global_step == 2


def test_a_form_that_checks_itself_falls_back_on_the_difference_form_and_says_so(caplog):
    runs = []
    for fallback in ("exact", "difference"):
        game = LEADStrategy(1.0, cross="auto", check_every=2, least_agreement=0.99, fallback=fallback)
        gan = tiny_gan(game=game)
        gan.discriminator.insert(2, OnceLayer())
        with caplog.at_level("INFO"):
            fit(gan)
        assert gan.game.rule.fallback == "difference"
        runs.append(weights(gan))
    assert torch.equal(*runs)
    assert "fallback='difference') plays in the place of" in caplog.text
    gan = tiny_gan(game=LEADStrategy(1.0, cross="auto"), dtype=torch.float32)
    gan.discriminator.insert(2, OnceLayer())
    with pytest.raises(ConfigurationError, match="bf16 weights"):
        fit(gan, precision="bf16-true")


def test_a_form_that_checks_itself_logs_its_agreement_and_the_form_in_force():
    gan = tiny_gan(game=LEADStrategy(1.0, cross="auto"))
    logged = fit(gan, log_every_n_steps=1).callback_metrics
    for player in ("discriminator", "generator"):
        assert 0.5 < logged[f"cross_agreement/{player}"] < 1
        assert logged[f"cross_extrapolated/{player}"] == 1.0


def test_a_layer_without_a_second_derivative_is_found_before_the_first_step_and_difference_trains_it():
    def build(cross):
        gan = tiny_gan(game=LEADStrategy(cross=cross))
        gan.discriminator.insert(2, OnceLayer())
        return gan

    gan = build("exact")
    before = weights(gan)
    with pytest.raises(DifferentiationError, match="cross='extrapolated'"):
        fit(gan)
    assert torch.equal(before, weights(gan))
    assert fit(build("difference")).global_step == 4


def test_trainer_settings_that_belong_to_the_module_are_refused_by_name():
    with pytest.raises(ConfigurationError, match="clip=0.5"):
        fit(tiny_gan(), gradient_clip_val=0.5)
    with pytest.raises(ConfigurationError, match="accumulate=2"):
        fit(tiny_gan(), accumulate_grad_batches=2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (FSDPStrategy, "wraps the module as a whole.*fully_shard.*'ddp'"),
        (DeepSpeedStrategy, "takes one optimizer.*fully_shard.*'ddp'"),
        (ModelParallelStrategy, "Cannot play LEAD.*differentiates a gradient.*cross='extrapolated'.*'ddp'"),
    ],
)
def test_sharding_is_refused_where_it_cannot_work(kind, message):
    trainer = SimpleNamespace(
        callbacks=[],
        gradient_clip_val=None,
        accumulate_grad_batches=1,
        precision="32-true",
        strategy=object.__new__(kind),  # the bare objects: they want devices or packages that a test does not have
    )
    with pytest.raises(ConfigurationError, match=message):
        check_trainer(trainer, LEAD())
    if kind is ModelParallelStrategy:
        check_trainer(trainer, LEAD(cross="extrapolated"))


def test_bf16_mixed_trains_and_sees_the_weights_that_just_moved():
    gan = tiny_gan(dtype=torch.float32)
    trainer = tiny_trainer(3, precision="bf16-mixed")
    data = torch.utils.data.TensorDataset(tiny_points().float())
    trainer.fit(gan, torch.utils.data.DataLoader(data, 24))
    assert trainer.global_step == 3
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in gan.parameters())
    anchors = gan.game.state_dict()["state"]["anchor"]
    assert all(t.dtype == torch.float32 for vector in anchors.values() for t in vector)


@pytest.mark.parametrize(("cross", "expected"), [("exact", True), ("difference", False)])
def test_the_difference_form_is_computed_in_float32_under_bf16_mixed(cross, expected):
    seen = []

    class Watched(LeadGANModule):
        def wanted_losses(self, batch, wanted):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().wanted_losses(batch, wanted)

    gan = Watched(*tiny_networks(dtype=torch.float32), game=LEADStrategy(cross=cross))
    data = torch.utils.data.TensorDataset(tiny_points().float())
    tiny_trainer(2, precision="bf16-mixed").fit(gan, torch.utils.data.DataLoader(data, 24))
    assert seen[0] is True  # the first discriminator update has no cross term yet
    assert seen[-1] is expected

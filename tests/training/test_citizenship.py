"""Modules as people really use them: fitted twice, shared, aliased, frozen, overridden, loaded for their weights."""

from __future__ import annotations

import warnings

import pytest
import torch
from pytorch_lightning import Callback
from tiny import TinyGenerator, tiny_gan, tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_lead import (
    ConfigurationError,
    DifferentiationError,
    GeneratorEMA,
    LeadGANModule,
    LeadMixin,
    LeadModule,
    LEADStrategy,
)
from lightning_lead.calculus import CrossTerm, ForwardRecord, frozen_buffers, private_rng
from lightning_lead.callbacks import generate


def fit(gan, steps=4, *, batch=24, seed=3, **settings):
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(seed)
    trainer.fit(gan, tiny_loader(batch))
    return trainer


def weights(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


# ---- state that must not leak ---------------------------------------------------------------------------------------


def test_a_second_fit_begins_anew():
    gan = tiny_gan()
    start = {k: v.clone() for k, v in gan.state_dict().items()}
    fit(gan)
    first = weights(gan)
    gan.load_state_dict(start)
    fit(gan)
    assert torch.equal(first, weights(gan))
    gan.load_state_dict(start)
    fit(gan, seed=4)
    assert not torch.equal(first, weights(gan))


def test_one_game_for_two_models_does_not_mix_them():
    game = LEADStrategy(1.0)
    fit(tiny_gan(game=game))
    shared, own = tiny_gan(game=game), tiny_gan(game=LEADStrategy(1.0))
    fit(shared)
    fit(own)
    assert torch.equal(weights(shared), weights(own))


def test_a_layer_that_is_unfrozen_during_a_fit_is_trained_from_then_on():
    gan = tiny_gan()
    gan.generator[0].requires_grad_(False)
    before = gan.generator[0].weight.detach().clone()

    class Unfreeze(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 2:
                assert torch.equal(module.generator[0].weight, before)
                module.generator[0].requires_grad_(True)

    fit(gan, callbacks=[Unfreeze()])
    assert not torch.equal(gan.generator[0].weight, before)


def test_a_frozen_layer_stays():
    gan = tiny_gan()
    gan.discriminator[0].requires_grad_(False)
    before = gan.discriminator[0].weight.clone()
    fit(gan)
    assert torch.equal(gan.discriminator[0].weight, before)


def test_the_probe_leaves_no_gradients():
    gan = tiny_gan()
    gan.stranger = nn.Parameter(torch.ones(()).double())
    gan.generator_loss = lambda logits: nn.functional.softplus(-logits * gan.stranger).mean()
    fit(gan, steps=1)
    assert gan.stranger.grad is None


def test_weights_alone_load_from_a_checkpoint_of_another_game(tmp_path):
    trainer = fit(tiny_gan(game=LEADStrategy(play="simultaneous")))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    generator, discriminator = tiny_networks()
    loaded = LeadGANModule.load_from_checkpoint(tmp_path / "a.ckpt", generator=generator, discriminator=discriminator)
    assert torch.equal(weights(loaded), weights(trainer.lightning_module))
    loaded.freeze()
    tiny_trainer(1).validate(loaded, tiny_loader(24), ckpt_path=tmp_path / "a.ckpt", verbose=False)


# ---- networks in several places -------------------------------------------------------------------------------------


def test_a_network_under_two_names_trains_and_samples_like_one():
    gan, plain = tiny_gan(), tiny_gan()
    gan.also = gan.generator
    ema = GeneratorEMA(halflife_images=100)
    fit(gan, callbacks=[ema])
    fit(plain)
    assert torch.equal(weights(gan), weights(plain))
    live = gan.generator[0].weight
    before = live.detach().clone()
    smooth = torch.cat(list(generate(gan, 4, seed=0, batch_size=4, ema=ema)))
    assert gan.generator[0].weight is live
    assert torch.equal(live, before)
    assert not torch.equal(smooth, torch.cat(list(generate(gan, 4, seed=0, batch_size=4))))


def test_a_parameter_that_two_layers_share_gets_both_derivatives():
    def build(share):
        gan = tiny_gan(game=LEADStrategy(0.0), optimizer=lambda groups: torch.optim.SGD(groups))
        gan.discriminator.insert(2, nn.Linear(6, 6).double())
        gan.discriminator.insert(3, nn.Linear(6, 6).double())
        gan.discriminator[3].load_state_dict(gan.discriminator[2].state_dict())
        if share:
            gan.discriminator[3] = gan.discriminator[2]
        return gan

    torch.manual_seed(0)
    shared = build(True)
    torch.manual_seed(0)
    apart = build(False)
    before = shared.discriminator[2].weight.detach().clone()
    fit(shared, steps=1)
    fit(apart, steps=1)
    moves = [layer.weight.detach() - before for layer in (apart.discriminator[2], apart.discriminator[3])]
    assert torch.allclose(shared.discriminator[2].weight - before, moves[0] + moves[1], atol=1e-12)


def test_a_network_in_a_plain_list_is_refused():
    class Hidden(LeadModule):
        def __init__(self):
            super().__init__()
            self.nets = [nn.Linear(1, 1), nn.Linear(1, 1)]

        def players(self):
            return {"x": self.nets[0].parameters(), "y": self.nets[1].parameters()}

        def player_losses(self, batch):
            value = self.nets[0].weight.sum() * self.nets[1].weight.sum()
            return {"x": value, "y": -value}

    with pytest.raises(ConfigurationError, match="not registered"):
        fit(Hidden())


@pytest.mark.parametrize("game", [LEADStrategy(0.0), LEADStrategy(1.0), LEADStrategy(cross="difference")])
def test_activation_checkpointing_changes_nothing(game):
    class Recomputed(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    plain = tiny_gan(game=game)
    fit(plain)
    gan = tiny_gan(game=game)
    gan.discriminator = Recomputed(*gan.discriminator)
    fit(gan)
    assert (weights(plain) - weights(gan)).abs().max() < 1e-12


# ---- evaluations in pairs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_the_difference_vanishes_where_nothing_has_moved(wrap):
    """Spectral norms iterate and dropout draws between the two evaluations, unless they are replayed."""
    gan = tiny_gan(game=LEADStrategy(cross="difference"), batch_norm=True)
    with warnings.catch_warnings(), private_rng(0):
        warnings.simplefilter("ignore")  # the older one is deprecated in some versions of torch
        gan.discriminator[0] = wrap(gan.discriminator[0])
    gan.discriminator.insert(2, nn.Dropout(0.3))
    gan.trainer = tiny_trainer(1)
    for turn in gan.game_turns([tiny_points(24)]):
        oracle = gan._oracle(turn, gan._live(), 7, probing=True)
        for player in oracle.names:
            (opponent,) = set(oracle.names) - {player}
            still = tuple(torch.zeros_like(p) for p in oracle.point[opponent])
            oracle.gradient(player, cross=CrossTerm(1.0, still, "difference"))
            assert oracle.statistics[player].cross_norm == 0
            assert oracle.statistics[player].gradient_norm > 0


def test_without_the_record_a_spectral_norm_is_another_function():
    layer, record = nn.utils.parametrizations.spectral_norm(nn.Linear(60, 60).double()), ForwardRecord()
    x = torch.ones(1, 60).double()
    with record.recording(layer):
        first = layer(x)
    with frozen_buffers(layer):
        moved = layer(x)
        with record.replaying(layer):
            repeated = layer(x)
    assert torch.equal(first, repeated)
    assert torch.equal(first, moved)  # one forward: the vectors are those that it left
    for _ in range(3):
        layer(x)
    with frozen_buffers(layer):
        assert not torch.equal(first, layer(x))
        with record.replaying(layer):
            assert torch.equal(first, layer(x))


def test_simultaneous_play_moves_statistics_once_per_game_step():
    gan = tiny_gan(game=LEADStrategy(play="simultaneous"), batch_norm=True)
    fit(gan, steps=4)
    assert int(gan.generator[1].num_batches_tracked) == 4


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_mistake_in_a_network_keeps_its_own_name():
    generator, _ = tiny_networks()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(LeadGANModule(generator, nn.Linear(5, 1).double()))


@pytest.mark.parametrize("cross", ["exact", "difference", "auto", "extrapolated"])
def test_players_that_never_meet_are_found_at_the_first_batch(cross):
    """By one evaluation of each loss, a detach looks the same, and the gradients are right: that is a warning."""

    class Strangers(LeadModule):
        def __init__(self):
            super().__init__(game=LEADStrategy(cross=cross))
            self.x, self.y = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def players(self):
            return {"x": [self.x], "y": [self.y]}

        def player_losses(self, batch):
            return {"x": self.x.square().sum(), "y": self.y.square().sum()}

    if cross == "extrapolated":
        with pytest.warns(UserWarning, match="No loss reaches the other player's parameters.*plain descent"):
            fit(Strangers())
    else:
        with pytest.raises(DifferentiationError, match="does not depend on"):
            fit(Strangers())


class Attention(nn.Module):
    """Points as a sequence of two numbers, through torch's own attention."""

    def __init__(self, **settings):
        super().__init__()
        self.lift, self.attend = nn.Linear(1, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 1)
        self.settings = settings

    def forward(self, points):
        x = self.lift(points[..., None])
        return self.head(self.attend(x, x, x, **self.settings)[0].mean(1))


def test_fused_attention_is_named_and_the_difference_form_trains_it():
    def gan(**settings):
        generator, _ = tiny_networks(dtype=torch.float32)
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tiny_points().float()), 24)
        return LeadGANModule(generator, Attention(need_weights=False), **settings), data

    with pytest.raises(DifferentiationError, match=r"attend \(MultiheadAttention\).*cross='extrapolated'"):
        tiny_trainer(2).fit(*gan())
    trainer = tiny_trainer(2)
    trainer.fit(*gan(game=LEADStrategy(cross="difference")))
    assert trainer.global_step == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("cross", ["exact", "difference"])
def test_compiled_networks_learn_the_same(cross):
    """The exact term runs them as they were written where it needs dual numbers, and compiled elsewhere."""
    ends = []
    for compiled in (False, True):
        gan = tiny_gan(game=LEADStrategy(0.7, cross=cross))
        if compiled:
            torch._dynamo.reset()
            gan.generator = torch.compile(gan.generator, backend="aot_eager")
            gan.discriminator = torch.compile(gan.discriminator, backend="aot_eager")
        fit(gan, steps=3, log_every_n_steps=2)
        ends.append(weights(gan))
    assert (ends[0] - ends[1]).abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("cross", "calls"),
    [
        ("exact", 1 + 2),  # reals of the first turn, and all of the inner turn
        ("difference", 3 + 2 + 2),  # fakes now and before with reals; the inner turn; the generator's now and before
    ],
)
def test_the_discriminator_runs_compiled_wherever_it_is_differentiated_once(cross, calls):
    ran, per_step = [], []

    def counting(graph, inputs):
        return lambda *arguments: ran.append(1) or graph.forward(*arguments)

    gan = tiny_gan(game=LEADStrategy(cross=cross), discriminator_steps=2)
    torch._dynamo.reset()
    gan.discriminator = torch.compile(gan.discriminator, backend=counting)
    step = gan.training_step

    def counted(*batch):
        ran.clear()
        step(*batch)
        per_step.append(len(ran))

    gan.training_step = counted
    fit(gan, steps=3)
    assert per_step[2] == calls


class FusedAttention(nn.Module):
    """The same by torch's fused function itself, which is less to compile."""

    def __init__(self):
        super().__init__()
        self.lift, self.head = nn.Linear(1, 24), nn.Linear(8, 1)

    def forward(self, points):
        queries, keys, values = self.lift(points[..., None]).chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(queries, keys, values).mean(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_difference_form_trains_a_compiled_discriminator_with_fused_attention():
    generator, _ = tiny_networks(dtype=torch.float32)
    torch._dynamo.reset()
    discriminator = torch.compile(FusedAttention(), backend="aot_eager")
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tiny_points().float()), 24)
    gan = LeadGANModule(generator, discriminator, game=LEADStrategy(cross="difference"))
    before = weights(discriminator)
    trainer = tiny_trainer(2, precision="bf16-mixed")
    trainer.fit(gan, data)
    assert trainer.global_step == 2
    assert (weights(discriminator) - before).abs().max() > 0


def test_an_optimizer_that_holds_a_stranger_is_refused():
    class Stranger(LeadGANModule):
        def configure_optimizers(self):
            self.extra = nn.Parameter(torch.ones(()))
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(ConfigurationError, match=r"1 parameter\(s\).*no player"):
        fit(Stranger(*tiny_networks()))


@pytest.mark.filterwarnings("ignore:The lr scheduler dict contains")
def test_a_scheduler_that_waits_for_a_plateau_is_refused():
    class Plateau(LeadGANModule):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "fid"}}

    with pytest.raises(ConfigurationError, match="ReduceLROnPlateau"):
        fit(Plateau(*tiny_networks()))


def test_a_scheduler_that_asks_for_epochs_gets_epochs():
    class PerEpoch(LeadGANModule):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    trainer = fit(PerEpoch(*tiny_networks(), generator_lr=0.1, discriminator_lr=0.1), steps=-1, max_epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.025)


def test_a_last_batch_that_does_not_divide_is_refused_before_the_first_step():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tiny_points(95)), 10)
    gan = tiny_gan(discriminator_steps=2)
    before = weights(gan)
    with pytest.raises(ConfigurationError, match="last batch of an epoch, of 5"):
        tiny_trainer(20).fit(gan, loader)
    assert torch.equal(before, weights(gan))
    tiny_trainer(20, limit_train_batches=9).fit(gan, loader)


def test_difference_on_bf16_weights_is_refused_and_exact_trains():
    def gan(cross):
        return tiny_gan(game=LEADStrategy(cross=cross), dtype=torch.float32)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tiny_points().float()), 24)
    with pytest.raises(ConfigurationError, match="bf16-mixed"):
        tiny_trainer(2, precision="bf16-true").fit(gan("difference"), data)
    exact = gan("exact")
    tiny_trainer(2, precision="bf16-true").fit(exact, data)
    anchors = exact.game.state_dict()["state"]["anchor"]
    assert all(t.dtype == torch.float32 for vector in anchors.values() for t in vector)


def test_hooks_that_are_overridden_without_super_are_named():
    class Forgetful(LeadGANModule):
        def on_fit_start(self):
            pass

    with pytest.raises(ConfigurationError, match=r"super\(\).on_fit_start\(\)"):
        fit(Forgetful(*tiny_networks(), game=LEADStrategy(0.0)))

    class Careless(LeadGANModule):
        def configure_callbacks(self):
            return []

    with pytest.raises(ConfigurationError, match="bf16-mixed"):
        fit(Careless(*tiny_networks(), game=LEADStrategy(cross="difference")), precision="bf16-true")


def test_labels_where_only_one_network_takes_them_and_where_there_are_none():
    class Judge(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 1).double()

        def forward(self, points, labels):
            return self.net(torch.cat([points, labels[:, None].double()], 1))

    data = torch.utils.data.TensorDataset(tiny_points(), torch.arange(96) % 4)
    trainer = tiny_trainer(2)
    trainer.fit(LeadGANModule(tiny_networks()[0], Judge()), torch.utils.data.DataLoader(data, 8))
    assert trainer.global_step == 2
    with pytest.raises(ConfigurationError, match="Judge because it takes labels"):
        fit(LeadGANModule(tiny_networks()[0], Judge()))


@pytest.mark.parametrize(
    ("players", "message"),
    [
        (lambda m: {"x": [m.x]}, "1 players"),
        (lambda m: {"x": [m.x], "y": []}, "'y' because it has no parameter"),
        (lambda m: {"x": [m.x], "y": [m.x, m.y]}, "share 1 parameter"),
    ],
)
def test_players_that_make_no_game_are_refused(players, message):
    class Odd(LeadModule):
        def __init__(self):
            super().__init__()
            self.x, self.y = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def players(self):
            return players(self)

        def player_losses(self, batch):
            value = (self.x * self.y).sum()
            return {"x": value, "y": -value}

        def configure_optimizers(self):
            return torch.optim.SGD([self.x, self.y], lr=0.1)

    with pytest.raises(ConfigurationError, match=message):
        fit(Odd())


def test_learning_rates_must_name_both_players():
    class Saddle(LeadModule):
        def __init__(self):
            super().__init__(learning_rates={"x": 0.1})
            self.x, self.y = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def players(self):
            return {"x": [self.x], "y": [self.y]}

    with pytest.raises(ConfigurationError, match=r"\['x', 'y'\]"):
        fit(Saddle())


def test_a_mixin_over_a_user_s_own_base_trains():
    import pytorch_lightning as pl

    class Base(pl.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.x, self.y = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    class Game(LeadMixin, Base):
        def players(self):
            return {"x": [self.x], "y": [self.y]}

        def player_losses(self, batch):
            value = (self.x * self.y).sum()
            return {"x": value, "y": -value}

        def configure_optimizers(self):
            return [torch.optim.SGD([self.x], lr=0.1), torch.optim.SGD([self.y], lr=0.1)], []

    game = Game(3, game=LEADStrategy(0.5))
    trainer = fit(game, steps=3)
    assert trainer.global_step == 3
    assert not torch.equal(game.x, torch.ones(3))


def test_a_recurrent_generator_trains():
    class Recurrent(nn.Module):
        latent_dim = 4

        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, z):
            return self.head(self.cell(z.view(-1, 2, 2))[0][:, -1])

    gan = LeadGANModule(Recurrent().double(), tiny_networks()[1], generator_lr=0.01)
    before = gan.generator.cell.weight_hh_l0.detach().clone()
    fit(gan)
    assert not torch.equal(gan.generator.cell.weight_hh_l0, before)


def test_a_generator_class_is_reused_across_fits_without_a_trace_of_the_swap():
    gan = tiny_gan()
    parameters = [id(p) for p in gan.parameters()]
    fit(gan)
    assert [id(p) for p in gan.parameters()] == parameters
    assert all(isinstance(p, nn.Parameter) for p in TinyGenerator(gan.generator).parameters())

"""LEAD's extrapolated form in training: what a loop written by hand does, and as frugal as plain play."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import pytorch_lightning as pl
import torch
from by_hand import ByHand, gan_by_hand
from tiny import tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import DifferentiationError, GeneratorEMA, LeadGANModule, LeadMixin, LeadModule, LEADStrategy
from lightning_lead.analysis import simulate
from lightning_lead.games import QuadraticGame
from lightning_lead.objectives import R1, WGANGP, adversarial_objective
from lightning_lead.rules import LEAD

COUPLING = {"discriminator": 1.5, "generator": 0.7}


def adam(parameters):
    """With an ε beside which a gradient of pure rounding is nothing: a bias before batch norm has one, a key's too."""
    return torch.optim.Adam(parameters, lr=0.01, betas=(0.5, 0.9), eps=1e-3)


def everything(*networks):
    return torch.cat([t.detach().double().reshape(-1) for n in networks for t in n.state_dict().values()])


def trained(gan, steps=4, *, data=None, **settings):
    """Fits, and hands back every latent that was drawn."""
    drawn, sample = [], gan.sample_latents
    gan.sample_latents = lambda n: drawn.append(sample(n)) or drawn[-1]
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(3)
    trainer.fit(gan, data or tiny_loader(24))
    assert trainer.global_step == steps
    return drawn


# ---- the same numbers as by hand ------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Adds what its layers make of an input."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


class Recomputed(Residual):
    """The same with activation checkpointing."""

    reentrant = False

    def forward(self, x):
        return x + checkpoint(self.layers, x, use_reentrant=self.reentrant)


class Reentrant(Recomputed):
    reentrant = True


class Attention(nn.Module):
    """Points as a sequence of two numbers, through torch's own attention, fused."""

    def __init__(self):
        super().__init__()
        self.lift, self.attend = nn.Linear(1, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, points):
        x = self.lift(points[..., None])
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


class LSTMCritic(nn.Module):
    """Points as a sequence of two numbers, through a recurrent network."""

    def __init__(self):
        super().__init__()
        self.read, self.head = nn.LSTM(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, points):
        return self.head(self.read(points[..., None])[0][:, -1])


class Once(torch.autograd.Function):
    """x², which says that it has no second derivative."""

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
        return Once.apply(x)


def with_block(block):
    def build():
        generator, discriminator = tiny_networks()
        inner = [nn.Linear(6, 6).double(), nn.Tanh(), nn.Linear(6, 6).double()]
        generator.insert(2, block(*copy.deepcopy(inner)))
        discriminator.insert(2, block(*inner))
        return generator, discriminator

    return build


def checkpointed_batch_norm(reentrant):
    """Its statistics move in the forward pass, and not once more where the backward pass runs it again."""
    generator, discriminator = tiny_networks()
    block = (Reentrant if reentrant else Recomputed)(nn.BatchNorm1d(6), nn.Linear(6, 6)).double()
    generator.insert(2, block)
    return generator, discriminator


def normalised():
    """Batch norm here, spectral norm there."""
    generator, discriminator = tiny_networks(batch_norm=True)
    discriminator[0] = nn.utils.parametrizations.spectral_norm(discriminator[0])
    return generator, discriminator


def synchronised():
    generator, discriminator = tiny_networks(batch_norm=True)
    return nn.SyncBatchNorm.convert_sync_batchnorm(generator), discriminator


def compiled():
    torch._dynamo.reset()
    networks = tiny_networks()
    for network in networks:
        network.compile(backend="aot_eager")
    return networks


def with_critic(critic):
    return lambda: (tiny_networks()[0], critic().double())


NETWORKS = {
    "plain": tiny_networks,
    "normalised": normalised,
    "SyncBatchNorm": synchronised,
    "checkpoint": with_block(Recomputed),
    "reentrant checkpoint": with_block(Reentrant),
    "checkpointed batch norm": lambda: checkpointed_batch_norm(False),
    "reentrant checkpointed batch norm": lambda: checkpointed_batch_norm(True),
    "fused attention": with_critic(Attention),
    "LSTM critic": with_critic(LSTMCritic),
    "no second derivative": with_critic(lambda: nn.Sequential(nn.Linear(2, 6), OnceLayer(), nn.Linear(6, 1))),
    "compiled": compiled,
}


def module(networks, *, kind=LeadGANModule, coupling=None, play="alternating", **settings):
    game = LEADStrategy(coupling or COUPLING, cross="extrapolated", play=play)
    rates = {"generator_lr": 0.01, "discriminator_lr": 0.01}
    return kind(*networks, **({"game": game, "optimizer": adam} | rates | settings))


def players(networks):
    return {"generator": networks[0].parameters(), "discriminator": networks[1].parameters()}


def by_hand(networks, latents, *, coupling=None, clip=None, batches=None, **settings):
    """Trains them in place; the number of batches is that of the game steps."""
    game = ByHand(players(networks), adam, coupling or COUPLING, clip=clip)
    gan_by_hand(*networks, batches or [(points,) for points in tiny_points().split(24)], latents, game, **settings)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    ("name", "inner"),
    [
        *((name, inner) for name in NETWORKS if name != "compiled" for inner in (1, 2)),
        pytest.param("compiled", 2, marks=pytest.mark.slow),
    ],
)
def test_weights_and_buffers_are_those_of_a_loop_written_by_hand(name, inner):
    torch.manual_seed(8)
    networks = NETWORKS[name]()
    plain = copy.deepcopy(networks) if name != "compiled" else tiny_networks()
    for block in nn.ModuleList(plain).modules():  # in a loop a checkpointed batch norm moves twice
        if isinstance(block, Recomputed):
            block.__class__ = Residual
    start = everything(*networks)
    latents = trained(module(networks, discriminator_steps=inner))
    by_hand(plain, latents, inner=inner)
    assert (everything(*networks) - everything(*plain)).abs().max() < 1e-12
    assert (everything(*networks) - start).abs().max() > 1e-2


def test_at_another_coupling_they_are_not():
    """The negative control: also that it matters whose coupling is whose."""
    plain = tiny_networks()
    networks = copy.deepcopy(plain)
    latents = trained(module(networks))
    by_hand(plain, latents, coupling={"discriminator": 0.7, "generator": 1.5})
    assert (everything(*networks) - everything(*plain)).abs().max() > 1e-4


class Whole(LeadGANModule):
    """Losses of which the structure is not known."""

    def wanted_losses(self, batch, wanted):
        return super().wanted_losses(batch, wanted)


@pytest.mark.parametrize("kind", [LeadGANModule, Whole])
@pytest.mark.parametrize(
    "settings",
    [{}, {"play": "simultaneous"}, {"clip": 0.05}, {"accumulate": 2, "discriminator_steps": 2}],
    ids=["alternating", "simultaneous", "clip", "accumulate"],
)
def test_plays_clip_accumulation_and_losses_as_a_whole_are_those_by_hand(kind, settings):
    networks = tiny_networks()
    plain = copy.deepcopy(networks)
    latents = trained(module(networks, kind=kind, **settings))
    joint, inner = settings.get("play") == "simultaneous", settings.get("discriminator_steps", 1)
    by_hand(plain, latents, joint=joint, inner=inner, clip=settings.get("clip"))
    assert (everything(*networks) - everything(*plain)).abs().max() < 1e-12


def test_schedules_and_an_averaged_generator_see_the_weights_where_they_are():
    """A moving learning rate and momentum; the average is of weights that no displacement has touched."""

    def schedule(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, 8, base_momentum=0.2, max_momentum=0.7)

    networks = tiny_networks()
    plain = copy.deepcopy(networks)
    ema = GeneratorEMA(halflife_images=24, rampup=None)  # the images of a game step
    latents = trained(module(networks, scheduler=schedule), callbacks=[ema])
    game, average = ByHand(players(plain), adam, COUPLING), everything(plain[0])
    schedules = [schedule(optimizer) for optimizer in game.optimizers.values()]

    def after():
        for moving in schedules:
            moving.step()
        average.lerp_(everything(plain[0]), 0.5)

    gan_by_hand(*plain, [(points,) for points in tiny_points().split(24)], latents, game, after=after)
    assert (everything(*networks) - everything(*plain)).abs().max() < 1e-12
    averaged = torch.cat([t.reshape(-1) for t in ema.state_dict()["average"].values()])
    assert (averaged - average).abs().max() < 1e-12


class Labelled(nn.Module):
    """A network that is handed labels."""

    def __init__(self, network, size):
        super().__init__()
        self.network, self.latent_dim, self.num_classes = network, 3, 4
        self.embedding = nn.Embedding(4, size).double()

    def forward(self, x, labels):
        return self.network(x + self.embedding(labels))


def test_conditional_networks_and_a_batch_of_the_generator_s_own_are_those_by_hand():
    generator, discriminator = tiny_networks()
    networks = Labelled(generator, 3), Labelled(discriminator, 2)
    plain = copy.deepcopy(networks)
    points, labels = tiny_points(), torch.arange(96) % 4
    data = DataLoader(TensorDataset(points, labels), 24)
    latents = trained(module(networks, discriminator_steps=2), data=data)
    by_hand(plain, latents, inner=2, batches=list(zip(points.split(24), labels.split(24), strict=True)))
    assert (everything(*networks) - everything(*plain)).abs().max() < 1e-12


# torch says so wherever fakes are made that nobody differentiates
no_grad = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


@no_grad
@pytest.mark.parametrize("block", [Recomputed, Reentrant])
def test_dropout_draws_the_same_masks_where_activations_are_recomputed(block):
    ends = []
    for kind in (Residual, block):
        torch.manual_seed(8)
        generator, discriminator = with_block(lambda *layers, kind=kind: kind(nn.Dropout(0.4), *layers))()
        trained(module((generator, discriminator)))
        ends.append(everything(generator, discriminator))
    assert (ends[0] - ends[1]).abs().max() < 1e-12


@pytest.mark.parametrize("cross", ["exact", "difference"])
def test_a_recurrent_critic_trains_by_the_other_forms_too_on_a_cpu(cross):
    trained(module(with_critic(LSTMCritic)(), game=LEADStrategy(cross=cross)), 2)


@no_grad
def test_reentrant_checkpointing_trains_by_every_rule_that_differentiates_once_and_others_name_them():
    def build(game):
        return tiny_gan_of(with_block(Reentrant)(), game)

    for game in (LEADStrategy(0.0), LEADStrategy(cross="difference"), "ExtraAdam", "OptimisticAdam"):
        trained(build(game), 2)
    with pytest.raises(DifferentiationError, match=r"reentrant.*use_reentrant=False.*cross='extrapolated'"):
        trained(build(LEADStrategy()), 2)
    gan = build(LEADStrategy(cross="auto"))
    trained(gan, 2)
    assert gan.game.rule.fallback == "difference"


class Inside(nn.Module):
    """A layer inside of a reentrant checkpoint, with no parameter before it, and perhaps one after it."""

    def __init__(self, sizes, *, checkpointed, last):
        super().__init__()
        self.first, self.checkpointed = nn.Linear(*sizes).double(), checkpointed
        self.last = nn.Linear(sizes[1], sizes[1]).double() if last else nn.Identity()

    def forward(self, x):
        layers = lambda x: torch.tanh(self.first(x))  # noqa: E731
        if self.checkpointed:
            x = checkpoint(layers, x if x.requires_grad else x.detach().requires_grad_(), use_reentrant=True)
        else:
            x = layers(x)
        return self.last(x)


@no_grad
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    "game", [LEADStrategy(0.0), LEADStrategy(cross="extrapolated"), LEADStrategy(cross="difference"), "Prediction"]
)
def test_what_a_reentrant_checkpoint_hides_is_trained(game, last):
    """`autograd.grad` leaves it out without a word if a parameter comes after it, and sees nothing if none does."""
    ends = []
    for checkpointed in (True, False):
        torch.manual_seed(0)
        generator, discriminator = Inside((3, 2), checkpointed=checkpointed, last=last), tiny_networks()[1]
        gan = LeadGANModule(generator, discriminator, latent_dim=3, game=game, optimizer=adam)
        before = generator.first.weight.detach().clone()
        trained(gan, 3)
        assert (generator.first.weight - before).abs().max() > 1e-5
        ends.append(everything(generator, discriminator))
    assert (ends[0] - ends[1]).abs().max() < 1e-12  # on some CPUs sums are rounded otherwise
    with pytest.raises(DifferentiationError, match="reentrant.*use_reentrant=False"):
        trained(
            tiny_gan_of(
                (Inside((3, 2), checkpointed=True, last=last), tiny_networks()[1]), LEADStrategy(), latent_dim=3
            ),
            1,
        )


def tiny_gan_of(networks, game, **settings):
    return LeadGANModule(*networks, game=game, generator_lr=0.01, discriminator_lr=0.01, **settings)


# ---- any two players ------------------------------------------------------------------------------------------------


class Tokenizer(nn.Module):
    """An autoencoder and a critic, with the adversarial weight that VQGAN adapts by gradients at the last layer."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
        self.critic = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
        self.weights, self.looks = [], 0

    detached = True
    recorded = True  # what moves in a loss, which a rule that evaluates it again refuses

    def loss_of_the_autoencoder(self, x):
        self.looks += self.recorded
        decoded = self.decoder(self.encoder(x))
        likeness, fooled = (decoded - x).abs().mean(), -self.critic(decoded).mean()
        last = self.decoder[-1].weight
        (pull,) = torch.autograd.grad(likeness, last, retain_graph=True)
        (push,) = torch.autograd.grad(fooled, last, retain_graph=True)
        weight = (pull.norm() / (push.norm() + 1e-4)).clamp(0.0, 1e4).detach()
        if self.recorded:
            self.weights.append(weight.item())
        return likeness + weight * fooled

    def loss_of_the_critic(self, x):
        self.looks += self.recorded
        decoded = self.decoder(self.encoder(x))
        decoded = decoded.detach() if self.detached else decoded
        return nn.functional.relu(1 - self.critic(x)).mean() + nn.functional.relu(1 + self.critic(decoded)).mean()


def sides(tokenizer):
    autoencoder = [*tokenizer.encoder.parameters(), *tokenizer.decoder.parameters()]
    return {"critic": list(tokenizer.critic.parameters()), "autoencoder": autoencoder}


class TokenizerGame(LeadMixin, pl.LightningModule):
    """As a user writes it, with an optimizer for each player."""

    def __init__(self, tokenizer, **settings):
        super().__init__(**settings)
        self.tokenizer = tokenizer

    def players(self):
        return sides(self.tokenizer)

    def wanted_losses(self, batch, wanted):
        return {name: getattr(self.tokenizer, f"loss_of_the_{name}")(batch[0]) for name in wanted}

    def configure_optimizers(self):
        return [adam(parameters) for parameters in self.players().values()]


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_a_loss_that_weighs_itself_by_derivatives_trains_as_by_hand(play):
    torch.manual_seed(8)
    tokenizer, coupling = Tokenizer().double(), {"critic": 1.5, "autoencoder": 0.7}
    plain = copy.deepcopy(tokenizer)
    game = LEADStrategy(coupling, cross="extrapolated", play=play)
    tiny_trainer(4).fit(TokenizerGame(tokenizer, game=game), tiny_loader(24))
    reference = ByHand(sides(plain), adam, coupling)
    for x in tiny_points().split(24):
        losses = {
            "critic": lambda x=x: plain.loss_of_the_critic(x),
            "autoencoder": lambda x=x: plain.loss_of_the_autoencoder(x),
        }
        for turn in [losses] if play == "simultaneous" else [{name: loss} for name, loss in losses.items()]:
            reference.turn(**turn)
    assert (everything(tokenizer) - everything(plain)).abs().max() < 1e-12
    assert tokenizer.weights[-4:] == pytest.approx(plain.weights, rel=1e-12)
    assert len(set(plain.weights)) == 4  # it adapts


@pytest.mark.parametrize(("cross", "trains"), [("exact", False), ("difference", True), ("auto", True)])
def test_what_other_forms_make_of_a_detach_and_of_derivatives_inside_a_loss(cross, trains):
    """The critic gets a detached sample, through which no second derivative leads; attached, every form trains."""

    class Detached(Tokenizer):
        recorded = False

    class Attached(Detached):
        detached = False

    for kind in (Detached, Attached):
        torch.manual_seed(8)
        tokenizer = kind().double()
        trainer, game = tiny_trainer(2), TokenizerGame(tokenizer, game=LEADStrategy(1.0, cross=cross))
        if trains or kind is Attached:
            trainer.fit(game, tiny_loader(24))
            assert trainer.global_step == 2
            assert (game.game.rule.fallback == "difference") == (cross == "auto" and kind is Detached)
        else:
            with pytest.raises(DifferentiationError, match="'critic'.* does not depend on the player.*detached"):
                trainer.fit(game, tiny_loader(24))


def test_losses_that_take_derivatives_and_do_not_look_what_is_wanted_train():
    class Careless(TokenizerGame):
        def wanted_losses(self, batch, wanted):
            return super().wanted_losses(batch, frozenset(self.players()))

    ends = []
    for kind in (Careless, TokenizerGame):
        torch.manual_seed(8)
        game = kind(Tokenizer().double(), game=LEADStrategy(1.0, cross="extrapolated"))
        tiny_trainer(4).fit(game, tiny_loader(24))
        ends.append(everything(game))
    assert torch.equal(*ends)


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_a_quadratic_game_in_a_trainer_is_the_exact_own_form_in_simulation(play):
    """Two ways to the same path: another form, and another engine."""
    quadratic = QuadraticGame([[1.0, 0.4], [-0.3, 0.8]], curvature=0.3)

    class Played(LeadModule):
        def __init__(self, **settings):
            super().__init__(learning_rates=0.1, **settings)
            start = quadratic.random_point(seed=0)
            self.x, self.y = nn.Parameter(start["x"][0].clone()), nn.Parameter(start["y"][0].clone())

        def players(self):
            return {"x": [self.x], "y": [self.y]}

        def player_losses(self, batch):
            return quadratic.losses({"x": (self.x,), "y": (self.y,)})

    def sgd(groups):
        return torch.optim.SGD(groups, lr=0.1, momentum=0.5)

    game = Played(game=LEADStrategy(cross="extrapolated", play=play), optimizer=sgd)
    tiny_trainer(8).fit(game, DataLoader(torch.zeros(8, 1)))
    end = simulate(LEAD(form="own"), quadratic, lr=0.1, steps=8, play=play, optimizer=sgd).points[-1]
    assert (torch.cat([game.x, game.y]).detach() - end).abs().max() < 1e-12


# ---- as frugal as plain play ----------------------------------------------------------------------------------------


class Counted:
    """An objective that counts how often each loss is evaluated."""

    separable = True

    def __init__(self):
        self.calls, self.objective = Counter(), adversarial_objective("hinge")

    def generator_loss(self, fake_logits):
        self.calls["generator"] += 1
        return self.objective.generator_loss(fake_logits)

    def discriminator_loss(self, real_logits, fake_logits):
        self.calls["discriminator"] += 1
        return self.objective.discriminator_loss(real_logits, fake_logits)


def step_by_step(settings, coupling, monkeypatch):
    """Calls of losses in each of three game steps, and the moves of batch norm and of spectral norm in all."""
    torch.manual_seed(8)
    settings = dict(settings)
    generator, discriminator = normalised()
    if settings.pop("conditional", False):
        generator, discriminator = Labelled(generator, 3), Labelled(discriminator, 2)
    objective, per_step, iterated = Counted(), [], Counter()
    game = LEADStrategy(coupling, cross="extrapolated", play=settings.pop("play", "alternating"))
    gan = LeadGANModule(generator, discriminator, game=game, objective=objective, optimizer=adam, **settings)
    step = gan.training_step

    def counted(*batch):
        objective.calls.clear()
        step(*batch)
        per_step.append(dict(objective.calls))

    gan.training_step = counted
    iterate = _SpectralNorm._power_method
    monkeypatch.setattr(_SpectralNorm, "_power_method", lambda *args: iterated.update([1]) or iterate(*args))
    data = DataLoader(TensorDataset(tiny_points(72), torch.arange(72) % 4), 24)
    tiny_trainer(3, log_every_n_steps=2).fit(gan, data)
    (tracked,) = {int(m.num_batches_tracked) for m in gan.modules() if isinstance(m, nn.BatchNorm1d)}
    return per_step, tracked, iterated.total()


@pytest.mark.parametrize(
    ("settings", "losses", "fakes", "judgements"),
    [
        ({}, (1, 1), 2, 3),  # fakes for each player; reals and fakes, then fakes
        ({"discriminator_steps": 3}, (3, 1), 4, 7),
        ({"accumulate": 2}, (2, 2), 4, 6),
        ({"penalty": R1(weight=3.0)}, (1, 1), 2, 3),  # an extra evaluation moves nothing
        ({"penalty": WGANGP(weight=3.0), "discriminator_steps": 2}, (2, 1), 3, 5),
        ({"conditional": True, "discriminator_steps": 2}, (2, 1), 3, 5),
        ({"shared_latents": True, "discriminator_steps": 2}, (2, 1), 3, 5),
        ({"play": "simultaneous"}, (1, 1), 1, 2),
        ({"play": "simultaneous", "accumulate": 2}, (2, 2), 2, 4),
    ],
    ids=lambda value: "-".join(value) or "plain" if isinstance(value, dict) else "",
)
def test_losses_are_evaluated_and_buffers_move_as_often_as_in_plain_play(
    settings, losses, fakes, judgements, monkeypatch
):
    expected = [{"discriminator": losses[0], "generator": losses[1]}] * 3
    for coupling in (0.0, 1.0):
        with monkeypatch.context() as patched:
            per_step, tracked, iterated = step_by_step(settings, coupling, patched)
        assert per_step == expected
        assert (tracked, iterated) == (3 * fakes, 3 * judgements)


def test_a_module_s_own_losses_are_evaluated_once_per_turn():
    per_step = []

    class Watched(TokenizerGame):
        def training_step(self, *batch):
            self.tokenizer.looks = 0
            super().training_step(*batch)
            per_step.append(self.tokenizer.looks)

    for coupling in (0.0, 1.0):
        torch.manual_seed(8)
        game = Watched(Tokenizer().double(), game=LEADStrategy(coupling, cross="extrapolated"))
        tiny_trainer(3, log_every_n_steps=1).fit(game, tiny_loader(24))
    assert per_step == [2] * 6


# ---- precision, layout, checkpoints ---------------------------------------------------------------------------------


def test_bf16_weights_train_as_by_hand_and_displacements_stay_in_float32():
    networks = tiny_networks(dtype=torch.bfloat16)
    plain = copy.deepcopy(networks)
    points = tiny_points().bfloat16()
    latents = trained(module(networks), data=DataLoader(TensorDataset(points), 24), precision="bf16-true")
    by_hand(plain, latents, batches=[(batch,) for batch in points.split(24)])
    # rounding in another order may flip a last bit, and Adam's step of 0.01 amplifies none of it
    assert (everything(*networks) - everything(*plain)).abs().max() < 2e-2
    assert (everything(*networks) - everything(*tiny_networks(dtype=torch.bfloat16))).abs().max() > 2e-2

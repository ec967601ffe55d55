"""The generator's penalty: the length of paths against its definition, a loop by hand, and both ways of derivatives."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pairs import pairwise
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny import tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.nn.functional import softplus

from lightning_lead import ConfigurationError, GameStrategy, GANBatch, LeadGANModule, LEADStrategy
from lightning_lead._errors import DifferentiationError
from lightning_lead.calculus import PrivateNoise
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.checkpoints._game import KEY
from lightning_lead.gan import GANProblem
from lightning_lead.objectives import R1, AbstractGeneratorPenalty, PathLength
from lightning_lead.rules import GradientPlay, LookaheadMinmax

STEPS = 6


class Styled(nn.Module):
    """Latents (n, 3), by way of styles (n, 4), to points (n, 2)."""

    latent_dim = 3

    def __init__(self, norm=nn.Identity):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.mapping = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
            self.layers = nn.Sequential(nn.Linear(4, 6), norm(6), nn.Softplus(), nn.Linear(6, 2))
        self.double()

    def synthesis(self, styles):
        return self.layers(styles)

    def forward(self, latents):
        return self.synthesis(self.mapping(latents))


GENERATORS = {"styled": Styled, "statistics": lambda: Styled(nn.BatchNorm1d), "whole": lambda: tiny_networks()[0]}


class Counted(AbstractGeneratorPenalty, nn.Module):
    """Keeps fakes small, and counts its updates in a buffer."""

    def __init__(self, every=1):
        super().__init__()
        self.every = every
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def __call__(self, mapping, synthesis, latents, *, noise=None):
        if self.training:
            self.count += 1
        return (1 + self.count) * synthesis(mapping(latents)).square().mean()


class Declined(LeadGANModule):
    """Takes every derivative of the losses as a whole."""

    def _probe(self, *_):
        self._structure = Structure("the test says so", None)


def build(kind=LeadGANModule, generator="styled", own=None, **settings):
    given = {"optimizer": torch.optim.SGD, "generator_lr": 0.05, "discriminator_lr": 0.05}
    own = PathLength(0.3, decay=0.9, every=2) if own is None else own
    networks = GENERATORS[generator](), tiny_networks()[1]
    return kind(*networks, generator_penalty=own, **(given | settings)).double()


def fit(gan, steps=STEPS, **settings):
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(2)
    trainer.fit(gan, tiny_loader(24))
    return trainer


def furthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


# ---- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "pixels"), [(1, (5,)), (1, (2, 3, 4)), (3, (2, 3, 4))])
def test_it_is_the_length_of_the_jacobian_s_rows(layers, pixels):
    torch.manual_seed(0)
    weight = torch.randn(layers * 4, math.prod(pixels), dtype=torch.float64)
    synthesis = lambda w: torch.tanh(w.flatten(1) @ weight).reshape(len(w), *pixels)  # noqa: E731
    mapping = lambda z: (2 * z).reshape(len(z), *((layers, 4) if layers > 1 else (4,)))  # noqa: E731
    latents = torch.randn(7, 4 * layers, dtype=torch.float64)
    noise, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    penalty = PathLength(1.5, decay=0.75).double()
    penalty.length.fill_(0.4)
    value = penalty(mapping, synthesis, latents, noise=noise)
    y = torch.randn(7, *pixels, generator=again, dtype=torch.float64) / math.prod(pixels[1:]) ** 0.5
    lengths = []
    for w, direction in zip(mapping(latents), y, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda w: synthesis(w[None])[0], w)
        pulled = torch.tensordot(direction, jacobian, dims=direction.dim())
        lengths.append(pulled.square().sum(-1).mean().sqrt())
    average = 0.75 * 0.4 + 0.25 * torch.stack(lengths).mean()
    assert penalty.length == pytest.approx(average.item(), rel=1e-12)
    expected = 1.5 * sum((length - average) ** 2 for length in lengths) / 7
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert penalty.eval()(mapping, synthesis, latents) != value
    assert penalty.length == pytest.approx(average.item(), rel=1e-12)  # stays in eval mode


def test_a_flat_generator_has_a_gradient_of_zero_and_not_of_nan():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    PathLength(1.0)(lambda z: z, layer, torch.ones(4, 3)).backward()
    assert torch.equal(layer.weight.grad, torch.zeros(2, 3))


def test_the_average_is_kept_in_float32_at_least_and_has_no_graph():
    penalty = PathLength(1.0).to(torch.bfloat16)
    assert penalty.length.dtype == torch.float32
    with torch.no_grad():
        assert not penalty(lambda z: z, lambda w: 2 * w, torch.ones(4, 3)).requires_grad
    assert penalty.length > 0
    assert not penalty.length.requires_grad


# ---- in a game -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("game", ["AlternatingGDA", LEADStrategy(0.0, cross="extrapolated")], ids=["plain", "ahead"])
def test_a_penalised_generator_is_its_loop(generator, game, monkeypatch):
    drawn, randn = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda *args, **settings: drawn.append(randn(*args, **settings)) or drawn[-1])
    gan = build(generator=generator, game=game)
    fit(gan, log_every_n_steps=1)
    monkeypatch.undo()
    drawn = iter([each for each in drawn if len(each) == 24])
    network, discriminator = GENERATORS[generator](), tiny_networks()[1]
    length = torch.zeros((), dtype=torch.float64)
    optimizers = [torch.optim.SGD(each.parameters(), 0.05) for each in (discriminator, network)]
    reals = list(tiny_loader(24))
    for step in range(STEPS):
        (real,), latents = reals[step % 4], [next(drawn), next(drawn)]
        optimizers[0].zero_grad()
        fake = network(latents[0]).detach()
        (softplus(-discriminator(real)).mean() + softplus(discriminator(fake)).mean()).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        loss = softplus(-discriminator(network(latents[1]))).mean()
        statistics = copy.deepcopy(dict(network.named_buffers()))  # the forward of the penalty leaves them
        if step % 2 == 0:
            styles = network.mapping(latents[1]) if generator != "whole" else latents[1].clone().requires_grad_()
            fake = network.synthesis(styles) if generator != "whole" else network(styles)
            (slope,) = torch.autograd.grad((fake * next(drawn)).sum(), styles, create_graph=True)
            lengths = slope.square().sum(1).sqrt()
            length = 0.9 * length + 0.1 * lengths.mean().detach()
            loss = loss + 2 * 0.3 * (lengths - length).square().mean()
        loss.backward()
        network.load_state_dict(statistics, strict=False)
        optimizers[1].step()
    assert furthest(gan.generator.state_dict(), network.state_dict()) < 1e-12
    assert furthest(gan.discriminator.state_dict(), discriminator.state_dict()) < 1e-12
    assert abs(gan.generator_penalty.length - length) < 1e-12
    assert length > 0


WAYS = pairwise(
    ["opponent", "own", "difference", "extrapolated"],
    list(GENERATORS),
    [{}, {"shared_latents": True}, {"discriminator_steps": 2, "generator_batch_size": 24}],
    [1, 2],
    [PathLength, Counted],
    [None, R1(0.5)],
)


@pytest.mark.parametrize(("form", "generator", "settings", "accumulate", "kind", "penalty"), WAYS)
def test_both_ways_give_the_same(form, generator, settings, accumulate, kind, penalty):
    cross = {"form": form} if form in ("opponent", "own") else {"cross": form}
    states = []
    for module in (LeadGANModule, Declined):
        own = PathLength(0.3, decay=0.9, every=2) if kind is PathLength else Counted(every=3)
        game = LEADStrategy(0.7, **cross)
        gan = build(module, generator, own, penalty=penalty, game=game, accumulate=accumulate, **settings)
        fit(gan, steps=5, log_every_n_steps=2)
        if form != "extrapolated":  # which needs no structure
            assert gan._structure.chained is (module is LeadGANModule)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


@pytest.mark.parametrize(
    ("every", "settings"), [(1, {"shared_latents": True}), (2, {"discriminator_steps": 2})], ids=["shared latents", "n"]
)
@pytest.mark.parametrize(
    ("game", "way"),
    [
        ("AlternatingGDA", LeadGANModule),
        (LEADStrategy(0.5, cross="extrapolated"), LeadGANModule),
        (LEADStrategy(0.5, cross="auto"), LeadGANModule),
        (LEADStrategy(0.5), LeadGANModule),
        (LEADStrategy(0.5, form="opponent"), Declined),
        (LEADStrategy(0.5, cross="difference"), LeadGANModule),
        (LEADStrategy(0.5, cross="difference"), Declined),
        (GameStrategy(LookaheadMinmax(), play="alternating"), LeadGANModule),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_its_state_moves_once_per_update_that_has_it(game, way, every, settings):
    """Not in the discriminator's turn, not where a batch is evaluated again, and not before the first step."""
    gan = build(way, own=Counted(every), game=game, **settings)
    fit(gan, log_every_n_steps=2)
    assert gan.generator_penalty.count == len(range(0, STEPS, every))
    count = gan.generator_penalty.count.clone()
    gan.eval().player_losses([tiny_points(8)])
    assert torch.equal(gan.generator_penalty.count, count)


def test_losses_in_eval_mode_have_it_with_its_own_weight():
    gan, plain = build(own=Counted(every=4)).eval(), build().eval()
    plain.generator_penalty = None
    losses = []
    for each in (gan, plain):
        torch.manual_seed(1)
        losses.append(each.player_losses([tiny_points(8)]))
    fakes = losses[0]["generator"] - losses[1]["generator"]
    torch.manual_seed(1)
    assert fakes.item() == pytest.approx(gan(gan.sample_latents(8)).square().mean().item(), rel=1e-12)
    assert losses[0].keys() == losses[1].keys() == {"discriminator", "generator"}
    assert torch.equal(losses[0]["discriminator"], losses[1]["discriminator"])


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole, resumed = build(game=LEADStrategy(0.5)), build(game=LEADStrategy(0.5))
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    fit(whole, steps=7, callbacks=[keep], enable_checkpointing=True)
    again = tiny_trainer(7, enable_checkpointing=True, callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=4)])
    again.fit(resumed, tiny_loader(24), ckpt_path=str(tmp_path / "step=4.ckpt"))
    first, second = whole.state_dict(), resumed.state_dict()
    assert first["generator_penalty.length"] > 0
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_logged():
    gan = build(own=Counted(every=2))
    seen = []
    gan.on_train_batch_end = lambda *_: seen.append(gan.trainer.logged_metrics.get("penalty/generator"))
    fit(gan, log_every_n_steps=1)
    assert all(value > 0 for value in seen[::2])
    assert gan.trainer.logged_metrics.keys() >= {"loss/generator"}


class Named(nn.Module):
    """Adds an embedding of labels, which it may go without."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Embedding(3, 3, dtype=torch.float64)

    def forward(self, latents, class_labels=None):
        return latents if class_labels is None else latents + self.classes(class_labels)


class Conditional(nn.Module):
    """A generator whose mapping takes labels: a module, a method that may go without, one that may not."""

    latent_dim, num_classes = 3, 3

    def __init__(self, how):
        super().__init__()
        self.named, self.layer, self.seen = Named(), nn.Linear(3, 2, dtype=torch.float64), []
        self.named.register_forward_pre_hook(lambda layer, args, kwargs: self.note(args, kwargs), with_kwargs=True)
        self.mapping = {"module": self.named, "optional": self.optional, "required": self.required}[how]

    def note(self, args, kwargs):
        given = [*args[1:], *kwargs.values()]
        self.seen.append(None if given[0] is None else given[0].tolist())

    def optional(self, latents, truncation=1.0, labels=None):
        return self.named(truncation * latents, labels)

    def required(self, latents, c):
        return self.named(latents, c)

    def synthesis(self, styles, noise=None):
        assert noise is None
        return self.layer(styles)

    def forward(self, latents, labels):
        return self.synthesis(self.named(latents, labels))


def conditional_batch(count=4):
    labels, latents = torch.arange(count) % 3, torch.randn(count, 3, dtype=torch.float64)
    return GANBatch(tiny_points(count), labels, latents, labels, True)


@pytest.mark.parametrize("how", ["module", "optional", "required"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_labels_reach_whatever_takes_them(how, mode):
    generator = Conditional(how)
    problem = GANProblem(generator, tiny_networks()[1], generator_penalty=PathLength(1.0), noise=PrivateNoise())
    with mode():
        batch = conditional_batch()
        assert problem.generator_penalty_on(batch) > 0
    assert generator.seen == [batch.labels.tolist()]


def test_labels_that_no_part_takes_are_refused():
    generator = Conditional("module")
    del generator.mapping
    generator.mapping = lambda latents, truncation=1.0: truncation * latents
    problem = GANProblem(generator, tiny_networks()[1], generator_penalty=PathLength(1.0))
    with pytest.raises(ConfigurationError, match="neither its mapping nor its synthesis does; call their"):
        problem.generator_penalty_on(conditional_batch())


class Flat(AbstractGeneratorPenalty):
    """Zero, as a function of the weights or as a constant."""

    def __init__(self, constant):
        self.constant = constant

    def __call__(self, mapping, synthesis, latents, *, noise=None):
        return latents.new_zeros(()) if self.constant else 0 * synthesis(mapping(latents)).sum()


class Added(LeadGANModule):
    """Adds a loss in which players meet, as feature matching."""

    def wanted_losses(self, batch, wanted):
        losses = dict(super().wanted_losses(batch, wanted))
        if "generator" in losses:
            losses["generator"] = losses["generator"] + self.discriminator(self(batch.latents)).square().mean()
        return losses


@pytest.mark.parametrize("form", ["opponent", "own"])
@pytest.mark.parametrize("way", [LeadGANModule, Declined, Added])
@pytest.mark.parametrize("constant", [False, True])
def test_a_penalty_of_zero_changes_nothing(form, way, constant):
    """Nor the cross term of what an override adds."""
    states = []
    for own in (Flat(constant), None):
        gan = build(way, own=Flat(constant), game=LEADStrategy(0.7, form=form))
        gan.generator_penalty = own
        fit(gan, steps=4)
        assert gan._structure.chained is (way is LeadGANModule)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


class Sometimes(LeadGANModule):
    """The generator moves in every other game step alone."""

    def game_turns(self, batch):
        turns = super().game_turns(batch)
        return turns if self.global_step % 2 else turns[:-1]


@pytest.mark.parametrize("kind", [Sometimes, LeadGANModule])
def test_updates_are_counted_and_not_game_steps(kind, tmp_path):
    steps, warmup = 9, 0 if kind is Sometimes else 3
    runs = [build(kind, own=Counted(every=2), discriminator_warmup=warmup) for _ in range(2)]
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    fit(runs[0], steps=steps, callbacks=[keep], enable_checkpointing=True)
    updates = 4 if kind is Sometimes else steps - warmup
    assert runs[0].generator_penalty.count == len(range(0, updates, 2))
    again = tiny_trainer(steps, enable_checkpointing=True, callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=4)])
    again.fit(runs[1], tiny_loader(24), ckpt_path=str(tmp_path / "step=4.ckpt"))
    assert furthest(runs[0].state_dict(), runs[1].state_dict()) == 0
    fit(runs[0], steps=1)  # another fit begins anew
    assert runs[0]._turns_played == {"discriminator": 1} | ({} if warmup or kind is Sometimes else {"generator": 1})


def test_a_checkpoint_that_does_not_count_updates_goes_on_all_the_same(tmp_path):
    settings = {
        "own": Counted(every=2),
        "penalty": R1(0.5, every=3),
        "discriminator_steps": 2,
        "discriminator_warmup": 1,
    }
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    whole = build(**settings)
    fit(whole, callbacks=[keep], enable_checkpointing=True)
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=False)
    assert saved[KEY].pop("turns") == {"discriminator": 8, "generator": 3}
    torch.save(saved, tmp_path / "old.ckpt")
    resumed = build(**settings | {"own": Counted(every=2)})
    again = tiny_trainer(STEPS, enable_checkpointing=True, callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=4)])
    again.fit(resumed, tiny_loader(24), ckpt_path=str(tmp_path / "old.ckpt"))
    assert furthest(whole.state_dict(), resumed.state_dict()) == 0


def test_an_average_moves_where_the_structure_turns_out_to_have_changed():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.smooth = nn.Linear(2, 6), nn.Linear(6, 1), False

        def forward(self, x):
            hidden = self.first(x)
            return self.last(torch.tanh(hidden) if self.smooth else torch.relu(hidden))

    class Gan(LeadGANModule):
        def on_train_batch_start(self, batch, batch_idx):
            self.discriminator.smooth = self.global_step >= 2

    settings = {"generator_penalty": Counted(), "game": LEADStrategy(0.5), "discriminator_steps": 2}
    gan = Gan(Styled(), Changing(), **settings).double()
    fit(gan)
    assert gan._structure.not_piecewise_linear is not None
    assert gan.generator_penalty.count == STEPS


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_simultaneous_play_is_refused():
    with pytest.raises(ConfigurationError, match=r"penalise the generator under GradientPlay.*alternating"):
        build(game=GameStrategy(GradientPlay(), play="simultaneous"))


def test_simultaneous_play_is_refused_for_a_penalty_that_came_later():
    gan = build(game=GameStrategy(GradientPlay(), play="alternating"))
    gan.game.play = "simultaneous"
    with pytest.raises(ConfigurationError, match="penalise the generator"):
        fit(gan)


@pytest.mark.parametrize("value", [0.5, None, torch.zeros(2)])
def test_what_is_no_scalar_tensor_is_refused(value):
    class Wrong(AbstractGeneratorPenalty):
        def __call__(self, mapping, synthesis, latents, *, noise=None):
            return value

    with pytest.raises(ConfigurationError, match="Cannot add Wrong to the generator's loss because it is no scalar"):
        fit(build(own=Wrong()))


@pytest.mark.parametrize("given", [R1(1.0), 3, PathLength, [PathLength()]])
def test_what_is_no_penalty_of_a_generator_is_refused(given):
    with pytest.raises(ConfigurationError, match=r"AbstractGeneratorPenalty; pass PathLength\(weight=2.0\)"):
        build(own=given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"decay": 1.0}, r"decay=1.0; pass a number in \[0, 1\)"),
        ({"decay": "0.5"}, "decay"),
        ({"every": 0}, "updates of the generator"),
        ({"every": True}, "every.*integer"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        PathLength(**settings)


def test_fakes_without_a_way_from_the_styles_are_refused():
    for synthesis in (lambda w: w.detach(), lambda w: nn.Parameter(torch.ones(4, 2)) * 2):
        with pytest.raises(DifferentiationError, match="do not depend on the generator's styles"):
            PathLength()(lambda z: z, synthesis, torch.ones(4, 3))

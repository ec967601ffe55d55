"""Objectives, penalties, augmentations, labels and schedules of `LeadGANModule`, each against its plain loop."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from pairs import pairwise
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny import TinyGenerator, tiny_gan, tiny_loader, tiny_points, tiny_trainer
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader, TensorDataset

from lightning_lead import ConfigurationError, LeadGANModule, LEADStrategy
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.gan import AdaptiveAugment, DiffAugment
from lightning_lead.networks import MLPDiscriminator, MLPGenerator
from lightning_lead.objectives import R1, R2, WGANGP, ApproximateR1, ApproximateR2, LeCam

RELATIVISTIC = ["relativistic_pairing", "relativistic_average"]
FORMS = ["opponent", "own", "difference"]
STEPS = 4


def networks(kind="smooth"):
    torch.manual_seed(1)
    if kind == "piecewise linear":
        return MLPGenerator(latent_dim=3, width=8).double(), MLPDiscriminator(width=8).double()
    norm = nn.BatchNorm1d(6) if kind == "batch norm" else nn.Identity()
    return (
        TinyGenerator(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double(),
        nn.Sequential(nn.Linear(2, 6), norm, nn.Softplus(), nn.Linear(6, 1)).double(),
    )


class Declined(LeadGANModule):
    """Takes every derivative of the losses as a whole."""

    def _probe(self, *_):
        self._structure = Structure("the test says so", None)


def build(pair, kind=LeadGANModule, **settings):
    given = {"optimizer": torch.optim.SGD, "generator_lr": 0.05, "discriminator_lr": 0.05}
    return kind(*pair, **(given | settings))


def fit(gan, loader=None, steps=STEPS, **settings):
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(2)
    trainer.fit(gan, tiny_loader(24) if loader is None else loader)
    return trainer


def furthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


class Latents(LeadGANModule):
    """Remembers its latents, so that a loop can use the same."""

    def sample_latents(self, n):
        drawn = super().sample_latents(n)
        vars(self).setdefault("drawn", []).append(drawn)
        return drawn


def loop(pair, drawn, generator_loss, discriminator_loss, steps=STEPS):
    """The plain loop: D by `discriminator_loss(D, reals, fakes, step)`, then G by `generator_loss(D, reals, fakes)`."""
    generator, discriminator = pair
    optimizers = [torch.optim.SGD(network.parameters(), 0.05) for network in (discriminator, generator)]
    drawn = iter(drawn)
    for step in range(steps):
        (real,) = list(tiny_loader(24))[step % 4]
        latents = [next(drawn), next(drawn)]
        for optimizer, z, loss in zip(optimizers, latents, (discriminator_loss, generator_loss), strict=True):
            for each in optimizers:
                each.zero_grad()
            fake = generator(z)
            if optimizer is optimizers[0]:
                loss(discriminator, real, fake.detach(), step).backward()
            else:
                loss(discriminator, real, fake).backward()
            optimizer.step()


def slope(discriminator, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)[0].square().sum(1).mean()


@pytest.mark.parametrize("kind", ["smooth", "batch norm"])
@pytest.mark.parametrize("game", ["AlternatingGDA", LEADStrategy(0.0, cross="extrapolated")], ids=["plain", "ahead"])
def test_a_relativistic_gan_is_its_loop(kind, game):
    """D(x) enters the generator's loss, and moves statistics of batch norm there as it does in a loop."""
    gan, pair = build(networks(kind), Latents, objective="relativistic_pairing", game=game), networks(kind)
    fit(gan)

    def generator_loss(discriminator, real, fake):
        of_fake = discriminator(fake)
        return softplus(discriminator(real) - of_fake).mean()

    def discriminator_loss(discriminator, real, fake, step):
        of_fake = discriminator(fake)
        return softplus(of_fake - discriminator(real)).mean()

    loop(pair, gan.drawn, generator_loss, discriminator_loss)
    for mine, theirs in zip((gan.generator, gan.discriminator), pair, strict=True):
        assert furthest(mine.state_dict(), theirs.state_dict()) < 1e-12


@pytest.mark.parametrize(
    ("objective", "form", "play", "kind"),
    pairwise(RELATIVISTIC, FORMS, ["alternating", "simultaneous"], ["smooth", "batch norm"]),
)
def test_both_ways_give_the_same_for_relativistic_objectives(objective, form, play, kind):
    cross = {"cross": form} if form == "difference" else {"form": form}
    states = []
    for module in (LeadGANModule, Declined):
        game = LEADStrategy(0.7, play=play, **cross)
        gan = build(networks(kind), module, objective=objective, game=game)
        fit(gan, steps=3)
        assert gan._structure.chained is (module is LeadGANModule)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12
    control = build(networks(kind), objective=objective, game=LEADStrategy(0.0, play=play, **cross))
    fit(control, steps=3)
    assert furthest(states[0], control.state_dict()) > 1e-7  # there is a cross term


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_a_relativistic_gan_needs_no_more_forwards_than_its_loop(play):
    gan = build(networks(), objective="relativistic_average", game=f"GradientPlay(play='{play}')")
    if play == "simultaneous":
        gan.game.play = play
    seen = []
    gan.discriminator.register_forward_pre_hook(lambda *_: seen.append(1))
    fit(gan, steps=2)
    assert len(seen) == 2 * (4 if play == "alternating" else 2)


class Hooked(LeadGANModule):
    """A hook that asks for the logits of reals."""

    def generator_loss(self, fake_logits, real_logits):
        return softplus(real_logits - fake_logits).mean()

    def discriminator_loss(self, real_logits, fake_logits):
        return softplus(fake_logits - real_logits).mean()


def test_a_hook_that_takes_real_logits_gets_them():
    states = []
    for gan in (build(networks(), Hooked), build(networks(), objective="relativistic_pairing")):
        fit(gan)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


# ---- penalties -------------------------------------------------------------------------------------------------------


def test_several_penalties_of_their_own_intervals_are_their_loop():
    penalties = [R1(0.6, every=3), R2(0.4)]
    gan, pair = (
        build(networks(), Latents, penalty=penalties, objective="wasserstein", game="AlternatingGDA"),
        networks(),
    )
    fit(gan, steps=7)

    def discriminator_loss(discriminator, real, fake, step):
        loss = discriminator(fake).mean() - discriminator(real).mean() + 0.2 * slope(discriminator, fake)
        return loss + (3 * 0.3 * slope(discriminator, real) if step % 3 == 0 else 0)

    loop(pair, gan.drawn, lambda discriminator, real, fake: -discriminator(fake).mean(), discriminator_loss, steps=7)
    for mine, theirs in zip((gan.generator, gan.discriminator), pair, strict=True):
        assert furthest(mine.state_dict(), theirs.state_dict()) < 1e-12


def test_an_interval_counts_updates_of_the_discriminator():
    seen = []

    class Watched(R1):  # type: ignore[misc]
        def __call__(self, *args, **kwargs):
            seen.append(gan.global_step)
            return super().__call__(*args, **kwargs)

    gan = build(networks(), penalty=Watched(1.0, every=4), discriminator_steps=3, game="AlternatingGDA")
    fit(gan, steps=5)  # updates 0 to 14
    assert seen == [0, 1, 2, 4]


LISTS = {
    "R1 + R2": [R1(1.0), R2(1.0)],
    "lazy WGAN-GP": [WGANGP(1.0, every=2)],
    "approximate R1": [ApproximateR1(1.0, 0.1)],
    "approximate R2": [ApproximateR2(1.0, 0.1)],
    "LeCam": ["LeCam"],
}


@pytest.mark.parametrize(("name", "kind", "form"), pairwise(LISTS, ["smooth", "piecewise linear"], FORMS))
def test_both_ways_give_the_same_with_a_list_of_penalties(name, kind, form):
    cross = {"cross": form} if form == "difference" else {"form": form}
    penalty, states = LISTS[name], []
    for module in (LeadGANModule, Declined):
        held = [LeCam(0.5, decay=0.5) if each == "LeCam" else each for each in penalty]
        gan = build(networks(kind), module, penalty=held, game=LEADStrategy(0.7, **cross))
        fit(gan, steps=3)
        assert gan._structure.chained is (module is LeadGANModule)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12
    if penalty == ["LeCam"]:
        assert states[0]["penalty_modules.0.of_reals"] != 0


@pytest.mark.parametrize("given", [[R1], [R1(1.0), "R2"], {"R1": 1.0}])
def test_what_is_no_penalty_is_refused_in_a_list_too(given):
    with pytest.raises(ConfigurationError, match=r"as a penalty because"):
        build(networks(), penalty=given)


# ---- augmentations ---------------------------------------------------------------------------------------------------


def images(count=6):
    return torch.randn(count, 3, 16, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_colours_change_as_they_are_said_to():
    x = images()
    torch.manual_seed(4)
    y = DiffAugment(["color"])(x)
    torch.manual_seed(4)
    b, s, c = (torch.rand(6, 1, 1, 1, dtype=torch.float64) for _ in range(3))
    bright = x + b - 0.5
    grey = bright.mean(1, keepdim=True)
    saturated = grey + 2 * s * (bright - grey)
    mean = saturated.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(y, mean + (c + 0.5) * (saturated - mean))


def test_translation_moves_pixels_by_up_to_an_eighth_and_zeros_in():
    torch.manual_seed(0)
    x = images(64)
    y, shifts = DiffAugment(["translation"])(x), set()
    for before, after in zip(x, y, strict=True):
        padded = nn.functional.pad(before, (2, 2, 2, 2))
        found = [
            (a, b)
            for a, b in itertools.product(range(5), repeat=2)
            if torch.equal(padded[:, a : a + 16, b : b + 12], after)
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 15  # of 25


def test_cutout_sets_a_rectangle_to_zero_elsewhere_nothing():
    torch.manual_seed(0)
    x = images(500)
    y = DiffAugment(["cutout"])(x)
    cut = (y == 0).all(1)
    assert torch.equal(torch.where(cut[:, None], x, y), x)
    for mask in cut[:20]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert mask.sum() == len(rows) * len(columns)
        assert len(rows) <= 8
        assert len(columns) <= 6
    share = cut.double().mean(0)
    assert share.min() > 0.04  # every pixel is cut out now and then
    assert share.max() < 0.45


def test_augmentations_are_differentiable_and_other_samples_are_refused():
    torch.manual_seed(0)
    x = images(2)[..., :8, :8].requires_grad_()

    def augmented(x):
        torch.manual_seed(1)
        return DiffAugment()(x)

    assert torch.autograd.gradcheck(augmented, x)
    with pytest.raises(ConfigurationError, match=r"no images.*\(4, 2\)"):
        DiffAugment()(tiny_points(4))
    for policy in ([], "color", ["colour"]):
        with pytest.raises(ConfigurationError, match=r"pass a list of some of color, tran|pass \['color'\]"):
            DiffAugment(policy)


class Noisy(nn.Module):
    """An augmentation of points, with what a second look could disturb."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * (0.5 + torch.rand(len(x), 1, dtype=x.dtype)) + 0.1 * torch.randn_like(x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["smooth", "piecewise linear"])
def test_both_ways_give_the_same_with_an_augmentation(kind, form):
    cross = {"cross": form} if form == "difference" else {"form": form}
    states = []
    for module in (LeadGANModule, Declined):
        gan = build(networks(kind), module, augment=Noisy(), penalty=R1(1.0), game=LEADStrategy(0.7, **cross))
        fit(gan, steps=3)
        assert gan._structure.chained is (module is LeadGANModule)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12
    assert states[0]["augment.calls"] == 9  # reals and fakes for D, fakes for G, in three steps


def test_an_augmentation_is_applied_to_reals_and_fakes_as_in_a_loop():
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x + 1

    augment, pair = Double(), networks()
    gan = build(networks(), Latents, augment=augment, penalty=R1(0.6), objective="wasserstein", game="AlternatingGDA")
    fit(gan)

    def discriminator_loss(discriminator, real, fake, step):
        through = lambda x: discriminator(augment(x))  # noqa: E731
        return through(fake).mean() - through(real).mean() + 0.3 * slope(through, real)

    loop(pair, gan.drawn, lambda d, real, fake: -d(augment(fake)).mean(), discriminator_loss)
    for mine, theirs in zip((gan.generator, gan.discriminator), pair, strict=True):
        assert furthest(mine.state_dict(), theirs.state_dict()) < 1e-12


@pytest.mark.parametrize("game", ["AlternatingGDA", "LEAD", "LEAD(cross='difference')", "ExtraAdam"])
def test_an_adaptive_augmentation_follows_the_reals_whatever_looks_again(game):
    """Per interval of 2 steps 48 reals: p moves by 48/1,000 towards where D is less sure."""
    probabilities = []

    class Sure(LeadGANModule):
        def on_game_step_end(self, batch):
            probabilities.append(float(self.augment.probability))

    pair = networks()
    pair[1][-1].bias.data += 9.0  # every logit is positive
    augment = AdaptiveAugment(nn.Identity(), images=1000, interval=2)
    fit(build(pair, Sure, augment=augment, game=game, generator_lr=1e-4, discriminator_lr=1e-4), steps=5)
    assert probabilities == pytest.approx([0, 0.048, 0.048, 0.096, 0.096])


def test_an_adaptive_augmentation_applies_to_its_share_of_the_samples():
    torch.manual_seed(0)
    augment = AdaptiveAugment(nn.Threshold(9e9, 9.0))  # turns everything into 9
    augment.raised.fill_(augment.images // 4)
    assert (augment(torch.zeros(10_000, 2)) == 9).all(1).float().mean() == pytest.approx(0.25, abs=0.02)
    for settings in ({"target": 1.0}, {"target": "0.6"}, {"images": 0}, {"interval": 0}):
        with pytest.raises(ConfigurationError, match="Cannot"):
            AdaptiveAugment(**settings)
    with pytest.raises(ConfigurationError, match="Cannot augment by this object"):
        tiny_gan(augment=DiffAugment)


# ---- resume ----------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    def make():
        augment = AdaptiveAugment(Noisy(), images=400, interval=2, target=-0.9)
        return build(
            networks(), penalty=[LeCam(0.5, every=2), R1(0.3, every=3)], augment=augment, discriminator_warmup=2
        )

    whole = make()
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")  # an epoch has 4 steps
    fit(whole, steps=11, callbacks=[keep], enable_checkpointing=True)
    resumed = make()
    settings = {"callbacks": [ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)]}
    tiny_trainer(11, enable_checkpointing=True, **settings).fit(
        resumed, tiny_loader(24), ckpt_path=str(tmp_path / "step=4.ckpt")
    )
    first, second = whole.state_dict(), resumed.state_dict()
    moved = {name for name in first if not torch.equal(first[name], make().state_dict()[name])}
    assert {"augment.raised", "penalty_modules.0.of_reals"} <= moved
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- labels, outputs, warm-up ----------------------------------------------------------------------------------------


class Conditional(nn.Module):
    """Adds an embedding of the label, under whatever name it comes."""

    def __init__(self, inner, width, outputs):
        super().__init__()
        self.inner, self.classes, self.num_classes, self.latent_dim = inner, nn.Embedding(3, width), 3, 3
        self.last = nn.Linear(width, outputs)

    def use(self, x, labels):
        return self.last(torch.tanh(self.inner(x) + self.classes(labels)))


class Second(Conditional):
    def forward(self, x, anything):
        return self.use(x, anything)


class ByKeyword(Conditional):
    def forward(self, x, *, y=None):
        return self.use(x, y)


class AfterAnother(Conditional):
    def forward(self, x, truncation=1.0, labels=None):
        assert truncation == 1.0
        return self.use(x, labels)


class RequiredSecond(Conditional):
    def forward(self, x, condition, labels=None):
        assert labels is None
        return self.use(x, condition)


class OtherMeaning(Conditional):
    def forward(self, x, condition=None, c=1.0):
        assert c == 1.0
        return self.use(x, condition)


class Declared(Conditional):
    label_argument = "kind"

    def forward(self, x, scale=1.0, kind=None):
        assert scale == 1.0
        return self.use(x, kind)


@functools.cache
def with_labels(network, game):
    torch.manual_seed(1)
    pair = network(nn.Linear(3, 6), 6, 2).double(), network(nn.Linear(2, 6), 6, 1).double()
    gan = build(pair, game=game, penalty=R1(1.0))
    fit(gan, DataLoader(TensorDataset(tiny_points(), torch.arange(96) % 3), 24))
    return gan.state_dict()


@pytest.mark.parametrize("kind", [ByKeyword, AfterAnother, Declared, RequiredSecond, OtherMeaning])
@pytest.mark.parametrize("game", ["AlternatingGDA", "LEAD"])
def test_labels_reach_the_argument_that_is_meant(kind, game):
    assert furthest(with_labels(Second, game), with_labels(kind, game)) == 0


def test_a_declared_argument_that_is_not_there_is_refused():
    pair = Declared(nn.Linear(3, 6), 6, 2), Declared(nn.Linear(2, 6), 6, 1)
    pair[0].label_argument = "klass"
    with pytest.raises(ConfigurationError, match=r"no argument 'klass'; correct its attribute label_argument"):
        fit(build(pair), DataLoader(TensorDataset(tiny_points(dtype=torch.float32), torch.arange(96) % 3), 24))


class WithFeatures(nn.Module):
    def __init__(self, inner, kind):
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, x):
        logits = self.inner(x)
        return self.kind([logits, logits * 2])


@pytest.mark.parametrize("game", ["AlternatingGDA", "LEAD"])
def test_logits_come_first_of_what_a_discriminator_returns(game):
    states = []
    for wrap in (lambda inner: inner, lambda inner: WithFeatures(inner, tuple)):
        generator, discriminator = networks()
        gan = build((generator, wrap(discriminator)), game=game, penalty=R1(1.0))
        fit(gan)
        states.append({name.replace("inner.", ""): value for name, value in gan.state_dict().items()})
    assert furthest(*states) == 0
    with pytest.raises(ConfigurationError, match=r"nor a tuple that begins with one.*\(got list\)"):
        fit(build((networks()[0], WithFeatures(networks()[1], list))))


@pytest.mark.parametrize("game", ["AlternatingGDA", "LEAD", "LEAD(cross='extrapolated')"])
def test_the_generator_waits_while_the_discriminator_warms_up(game):
    gan = build(networks(), discriminator_warmup=3, game=game)
    before = gan.generator.state_dict()["0.weight"].clone()
    still = []
    trainer = fit(gan, steps=3)
    still.append(torch.equal(gan.generator.state_dict()["0.weight"], before))
    assert trainer.global_step == 3
    gan = build(networks(), discriminator_warmup=3, game=game)
    fit(gan, steps=4)
    still.append(torch.equal(gan.generator.state_dict()["0.weight"], before))
    assert still == [True, False]
    with pytest.raises(ConfigurationError, match="discriminator_warmup must be an integer ≥ 0"):
        build(networks(), discriminator_warmup=-1)
    with pytest.raises(ConfigurationError, match="warm the discriminator up"):
        build(networks(), discriminator_warmup=1, game=LEADStrategy(play="simultaneous"))


@pytest.mark.parametrize("warmup", [0, 20])
def test_a_generator_that_has_waited_begins_without_a_displacement(warmup):
    """What the discriminator has done alone is no move in the game: the first turns are those of a fresh start."""
    gan = build(networks(), discriminator_warmup=warmup, game=LEADStrategy(1.0), discriminator_lr=0.5)
    crosses = []

    class Watch(LeadGANModule):
        def log_game_step(self, record, notes):
            super().log_game_step(record, notes)
            crosses.append({name: stats.cross_norm for name, stats in record.items()})

    gan.__class__ = Watch
    start = gan.discriminator.state_dict()["0.weight"].clone()
    fit(gan, steps=warmup + 1, log_every_n_steps=1)
    travelled = (gan.discriminator.state_dict()["0.weight"] - start).norm()
    assert len(crosses) == warmup + 1
    assert "generator" not in crosses[0] or not warmup
    # of one move of the discriminator, however far it has come
    assert float(crosses[-1]["generator"]) < 0.02
    assert travelled > (0.2 if warmup else 0.0)


def test_several_logits_of_a_sample_count_as_one_real():
    augment = AdaptiveAugment(nn.Identity(), images=1000, interval=1)
    augment.observe(torch.ones(4, 1, 8, 8))
    augment.adapt()
    assert float(augment.probability) == pytest.approx(0.004)
    augment.observe(torch.cat([torch.ones(4, 1, 8, 6), -torch.ones(4, 1, 8, 2)], dim=3))  # a mean sign of ½
    augment.adapt()
    assert float(augment.probability) == 0
    augment.to(torch.bfloat16)
    for _ in range(40):
        augment.observe(torch.ones(4))
        augment.adapt()
    assert float(augment.probability) == pytest.approx(0.16)


def test_an_adaptive_augmentation_is_found_inside_of_another_module():
    augment = nn.Sequential(AdaptiveAugment(nn.Identity(), images=1000, interval=1))
    fit(build(networks(), augment=augment), steps=2)
    assert float(augment[0].probability) > 0
    with pytest.raises(ConfigurationError, match="parameters to train because it belongs to no player"):
        build(networks(), augment=nn.Linear(2, 2))


def test_losses_in_eval_mode_move_nothing_and_have_every_penalty_with_its_own_weight():
    augment, penalty = AdaptiveAugment(nn.Identity()), [LeCam(0.5), R1(0.6, every=8)]
    gan = build(networks(), augment=augment, penalty=penalty, objective="wasserstein").eval()
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    real = tiny_points(8)
    torch.manual_seed(2)
    loss = gan.player_losses([real])["discriminator"]
    assert all(torch.equal(value, before[name]) for name, value in gan.state_dict().items())
    torch.manual_seed(2)
    fake = gan(gan.sample_latents(8))
    critic = gan.discriminator
    expected = critic(fake).mean() - critic(real).mean() + 0.3 * slope(critic, real)
    expected = expected + 0.5 * (critic(real).square().mean() + critic(fake).square().mean())
    torch.testing.assert_close(loss, expected)


def test_averages_of_a_penalty_stay_in_the_generator_s_turn():
    """The exact term of the generator takes the discriminator's loss with the constants of its own update."""
    gan = build(networks(), penalty=[LeCam(0.5, decay=0.5)])
    gan.trainer = tiny_trainer(1)
    d_turn, g_turn = gan.game_turns([tiny_points(8)])
    problem, (of_d,), (of_g,) = gan.problem, d_turn.micro_batches, g_turn.micro_batches
    problem.penalty_on(of_d, problem.fakes(of_d))
    kept = gan.penalty[0].of_reals.clone()
    assert kept != 0
    value = problem.penalty_on(of_g, problem.fakes(of_g))
    assert gan.penalty[0].of_reals == kept
    r, t = gan.discriminator(of_g.real), gan.discriminator(problem.fakes(of_g))
    expected = (r - gan.penalty[0].of_fakes).square().mean() + (t - kept).square().mean()
    torch.testing.assert_close(value, 0.5 * expected)
    assert gan.penalty[0].training
    assert gan.to(torch.bfloat16).penalty[0].of_reals.dtype == torch.float32


@pytest.mark.parametrize("penalty", [[LeCam(0.5), R1(1.0)], [R1(1.0), ApproximateR2(1.0, 0.1)]], ids=["LeCam", "R2"])
@pytest.mark.parametrize("form", ["opponent", "own"])
def test_a_penalty_of_reals_beside_one_of_fakes_needs_no_third_derivative(penalty, form):
    states = []
    for module in (LeadGANModule, Declined):
        gan = build(networks("batch norm"), module, penalty=penalty, game=LEADStrategy(0.7, form=form))
        if isinstance(penalty[0], LeCam):
            penalty[0].of_reals.zero_(), penalty[0].of_fakes.zero_()
        fit(gan, steps=3)
        states.append({name: value.clone() for name, value in gan.state_dict().items()})
    assert furthest(*states) < 1e-7 if isinstance(penalty[0], LeCam) else furthest(*states) < 1e-12


@pytest.mark.parametrize("objective", ["hinge", "relativistic_average"])
def test_a_hook_with_the_signature_of_the_base_passes_on_what_the_objective_takes(objective):
    class Doubled(LeadGANModule):
        def generator_loss(self, fake_logits, real_logits=None):
            return 2 * super().generator_loss(fake_logits, real_logits)

    states = []
    for kind, rate in ((Doubled, 0.05), (LeadGANModule, 0.1)):
        gan = build(networks(), kind, objective=objective, game="AlternatingGDA", generator_lr=rate)
        fit(gan)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


def test_fakes_have_the_labels_of_the_reals_beside_which_they_are_penalised():
    pair = Second(nn.Linear(3, 6), 6, 2).double(), Second(nn.Linear(2, 6), 6, 1).double()
    gan = build(pair, penalty=R2(1.0), generator_batch_size=16, accumulate=2)
    gan.trainer = tiny_trainer(1)
    labels = torch.tensor([0, 1, 2, 0, 2, 2, 1, 1])
    for turn in gan.game_turns([tiny_points(8), labels]):
        for micro in turn.micro_batches:
            count = min(len(micro.real), len(micro.latents))
            assert torch.equal(micro.fake_labels[:count], micro.labels[:count])


@pytest.mark.parametrize("every", [0, 2.5])
def test_a_penalty_of_one_s_own_with_a_bad_interval_is_refused(every):
    class Own(R1):  # type: ignore[misc]
        pass

    own = Own(1.0)
    object.__setattr__(own, "every", every)
    with pytest.raises(ConfigurationError, match=r"Own because every= counts"):
        build(networks(), penalty=[own])

"""Gradient penalties in a game: who pays them, by which cross terms they act, and that they leave no trace."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from pairs import pairwise
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny import TinyGenerator, tiny_gan, tiny_loader, tiny_networks, tiny_points, tiny_trainer
from torch import nn
from torch.func import functional_call

from lightning_lead import ConfigurationError, DifferentiationError, GameStrategy, LeadGANModule, LEADStrategy
from lightning_lead.calculus import CrossTerm
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.gan import GANProblem
from lightning_lead.networks import MLPDiscriminator, MLPGenerator, SNGANDiscriminator, SNGANGenerator
from lightning_lead.objectives import R1, WGANGP, AbstractGradientPenalty
from lightning_lead.rules import GradientPlay

spectral = nn.utils.parametrizations.spectral_norm
PENALTIES = {"R1": R1(weight=3.0), "WGANGP": WGANGP(weight=3.0)}
FORMS = ["opponent", "own", "difference"]
STRUCTURES = {
    "general": Structure("the test says so", None),
    "dual numbers": Structure(None, "the test says so"),
    "piecewise linear": Structure(None, None),
}


def strategy(form, alpha=0.7, **settings):
    cross = {"cross": "difference"} if form == "difference" else {"form": form}
    return LEADStrategy(alpha, **cross, **settings)


def fit(gan, steps=3, batch=24, seed=2, **settings):
    trainer = tiny_trainer(steps, **settings)
    torch.manual_seed(seed)
    trainer.fit(gan, tiny_loader(batch))
    return trainer


def furthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def networks(kind):
    """Of points; with everything that a second look could disturb, or piecewise linear."""
    torch.manual_seed(1)
    if kind == "piecewise linear":
        return MLPGenerator(latent_dim=3, width=8).double(), MLPDiscriminator(width=8).double()
    generator, discriminator = nn.Linear(3, 6), nn.Linear(2, 6)
    if kind == "batch norm in both":
        middle = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    else:
        generator, discriminator = spectral(generator), spectral(discriminator)
        middle = tuple(nn.Dropout(0.3) if "dropout" in kind else nn.Identity() for _ in range(2))
    return (
        TinyGenerator(generator, middle[0], nn.Tanh(), nn.Linear(6, 2)).double(),
        nn.Sequential(discriminator, middle[1], nn.Softplus(), nn.Linear(6, 1)).double(),
    )


class Declined(LeadGANModule):
    """Takes every derivative of the losses as a whole.

    No probe, for that one visits all of a graph, and batch norm's third derivative by weights, which R1 has in the
    generator's cross term, is on no path to the generator.
    """

    def _probe(self, *_):
        self._structure = Structure("the test says so", None)


# ---- the derivatives -----------------------------------------------------------------------------------------------


PLAYS = ["alternating", "simultaneous"]
NETWORKS = [
    ("smooth, spectral norm, dropout", 1.0),
    ("piecewise linear", 1.0),
    # masks of dropout and statistics of a part are its own, so these are left out
    ("smooth, spectral norm", 0.5),
    ("piecewise linear", 0.5),
]
NORMED = [("batch norm in both", 1.0)]


@pytest.mark.parametrize(
    ("penalty", "form", "play", "network"),
    [
        *pairwise(PENALTIES, FORMS, PLAYS, NETWORKS),
        *pairwise(["R1"], FORMS, PLAYS, NORMED),
        # batch norm has no right third derivative: other forms are refused, see below
        *pairwise(["WGANGP"], ["difference"], PLAYS, NORMED),
    ],
    ids=str,
)
def test_both_ways_give_the_same_weights_and_buffers(penalty, form, play, network):
    kind, fraction = network
    states = []
    for module in (LeadGANModule, Declined):
        gan = module(
            *networks(kind),
            penalty=PENALTIES[penalty],
            game=strategy(form, play=play, cross_fraction=fraction),
            optimizer=torch.optim.SGD,
            generator_lr=1e-2,
            discriminator_lr=1e-2,
        )
        fit(gan)
        assert gan._structure.chained is (module is LeadGANModule)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_both_ways_give_the_same_where_batches_have_two_sizes_and_several_pieces(form):
    states = []
    for module in (LeadGANModule, Declined):
        gan = module(
            *networks("piecewise linear"),
            penalty=WGANGP(),
            objective="wasserstein",
            game=strategy(form),
            optimizer=torch.optim.SGD,
            generator_lr=1e-2,
            discriminator_lr=1e-2,
            discriminator_steps=2,
            generator_batch_size=20,
            accumulate=2,
        )
        fit(gan)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


class Relativistic:
    """Reals and fakes meet in the logits as well."""

    def generator_loss(self, fake_logits):
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits, fake_logits):
        return torch.relu(0.3 - (real_logits - fake_logits)).square().mean() + (real_logits * fake_logits).mean()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_both_ways_give_the_same_for_an_objective_that_mixes_reals_and_fakes(penalty, form):
    states = []
    for module in (LeadGANModule, Declined):
        gan = module(
            *networks("smooth, spectral norm, dropout"),
            penalty=PENALTIES[penalty],
            objective=Relativistic(),
            game=strategy(form),
            optimizer=torch.optim.SGD,
            generator_lr=1e-2,
            discriminator_lr=1e-2,
        )
        fit(gan)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


def ready(penalty, structure=None, game=None, **settings):
    """A module that can be asked for directions, and its live parameters."""
    gan = tiny_gan(penalty=penalty, game=game, **settings)
    gan.trainer = tiny_trainer(1)
    gan._structure = STRUCTURES["dual numbers"] if structure is None else structure
    return gan, {name: list(parameters) for name, parameters in gan.players().items()}


@pytest.mark.parametrize("structure", ["general", "dual numbers"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("player", ["discriminator", "generator"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_direction_is_the_dense_one(penalty, player, form, structure, monkeypatch):
    """Losses written out on flat vectors, their mixed Jacobian in full; float64, smooth networks."""
    gan, live = ready(PENALTIES[penalty], STRUCTURES[structure], strategy(form))
    shares, rand = [], torch.rand
    monkeypatch.setattr(torch, "rand", lambda *a, **k: shares.append(rand(*a, **k)) or shares[-1])
    turn = gan.game_turns([tiny_points(8)])[player == "generator"]
    (batch,) = turn.micro_batches
    opponent = "generator" if player == "discriminator" else "discriminator"
    delta = tuple(0.1 * torch.randn_like(p) for p in live[opponent])
    oracle = gan._oracle(turn, live, 7)
    mine = torch.cat([t.reshape(-1) for t in oracle.gradient(player, cross=CrossTerm(0.7, delta, form))])

    def network(name, vector):
        module = getattr(gan, name)
        pieces = vector.split([p.numel() for p in module.parameters()])
        state = {n: v.view_as(p) for (n, p), v in zip(module.named_parameters(), pieces, strict=True)}
        return lambda x: functional_call(module, state, x)

    soft = nn.functional.softplus

    def loss(whose, theirs_d, theirs_g):
        discriminator, fakes = network("discriminator", theirs_d), network("generator", theirs_g)(batch.latents)
        if whose == "generator":
            return soft(-discriminator(fakes)).mean()
        total = soft(-discriminator(batch.real)).mean() + soft(discriminator(fakes)).mean()
        slope = torch.func.grad(lambda x: discriminator(x).sum())
        if penalty == "R1":
            return total + 1.5 * slope(batch.real).square().sum(1).mean()
        share = shares[0][:, None] if shares else torch.zeros(8, 1)  # drawn only where the penalty is looked at
        return total + 3 * (slope(share * batch.real + (1 - share) * fakes).norm(dim=1) - 1).square().mean()

    points = {n: torch.cat([p.detach().reshape(-1) for p in live[n]]) for n in live}
    d, g = points["discriminator"], points["generator"]
    at = 0 if player == "discriminator" else 1
    own = torch.func.grad(lambda *a: loss(player, *a), at)
    moved = torch.cat([t.reshape(-1) for t in delta])
    if form == "difference":
        before = (d, g - moved) if at == 0 else (d - moved, g)
        term = own(d, g) - own(*before)
    else:
        of, sign = (opponent, -1) if form == "opponent" else (player, 1)
        field = torch.func.grad(lambda *a: loss(of, *a), 1 - at)
        mixed = torch.func.jacrev(field, at)(d, g)  # (opponent's size, own size)
        term = sign * mixed.T @ moved
    expected = own(d, g) + 0.7 * term
    assert (mine - expected).abs().max() < 1e-12
    # the control: without the penalty it is another direction, but for the generator's where it drops out
    plain, plainly = ready(None, STRUCTURES[structure], strategy(form))
    other = plain._oracle(turn, plainly, 7).gradient(player, cross=CrossTerm(0.7, delta, form))
    off = (torch.cat([t.reshape(-1) for t in other]) - mine).abs().max()
    enters = player == "discriminator" or (penalty == "WGANGP" and form == "opponent")
    assert off > 1e-4 if enters else off < 1e-15


def test_the_generator_s_loss_has_no_penalty():
    batch, losses = [tiny_points(8)], []
    for penalty in (None, R1(weight=3.0)):
        gan = tiny_gan(penalty=penalty)
        torch.manual_seed(2)
        losses.append(gan.player_losses(batch))
    assert torch.equal(losses[0]["generator"], losses[1]["generator"])
    own = R1(weight=3.0)(gan.discriminator, batch[0])
    torch.testing.assert_close(losses[1]["discriminator"], losses[0]["discriminator"] + own)


# ---- the structure ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("kind", "expected"), [("piecewise linear", True), ("smooth, spectral norm, dropout", False)])
@pytest.mark.parametrize("game", [strategy("opponent"), strategy("own"), strategy("difference")], ids=FORMS)
def test_the_structure_is_found(penalty, kind, expected, game):
    gan = LeadGANModule(*networks(kind), penalty=PENALTIES[penalty], game=game)
    fit(gan, 1)
    assert gan._structure.chained
    assert gan._structure.piecewise_linear is (expected and game.rule.needs.second_order)


class BehindTheBack(AbstractGradientPenalty):
    """Says that it does not look at fakes, and makes some itself."""

    looks_at_fakes = False

    def __init__(self, generator):
        self._make = generator
        self._latents = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def points(self, real, fake, noise):
        return self._make(self._latents)

    def price(self, squares):
        return 3 * squares


def test_a_penalty_by_which_the_players_meet_behind_the_back_is_found(caplog):
    generator, discriminator = tiny_networks()
    gan = LeadGANModule(generator, discriminator, penalty=BehindTheBack(generator))
    with caplog.at_level(logging.DEBUG, logger="lightning_lead.gan"):
        fit(gan, 2)
    assert not gan._structure.chained
    assert "the direction of generator differs" in caplog.text


# ---- no trace --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", ["smooth, spectral norm, dropout", "batch norm in both"])
def test_a_replay_equals_the_first_evaluation_and_buffers_move_as_without_a_penalty(penalty, kind):
    buffers = []
    for own in (PENALTIES[penalty], None):
        gan = LeadGANModule(*networks(kind), penalty=own)
        gan.trainer = tiny_trainer(1)
        with gan.private_noise(3):
            (batch,) = gan.game_turns([tiny_points(8)])[0].micro_batches
        evaluation = gan._losses_of(batch, 5, repeated=True, structure=STRUCTURES["general"])
        both = frozenset({"discriminator", "generator"})
        first = evaluation({}, both, replay=False)
        buffers.append({name: b.clone() for name, b in gan.named_buffers()})
        again = evaluation({}, both, replay=True)
        assert torch.equal(first["discriminator"], again["discriminator"])
        # a replay that leaves out the reals draws the same numbers for the penalty, and normalises by the same vectors
        with torch.no_grad(), evaluation.evaluation(replay=True):
            made = evaluation.fakes()
            evaluation.fake_logits(made)
            alone = evaluation.penalty(made).whole
        if own is not None:
            (kept,) = gan._penalty_values["discriminator"].values()
            assert torch.equal(alone, kept)
        assert furthest(dict(gan.named_buffers()), buffers[-1]) == 0
    assert furthest(*buffers) == 0


def test_the_penalised_discriminator_is_the_one_that_looked_at_the_reals():
    """Also where its norm is far from converged: the power iteration has made few turns."""
    gan = tiny_gan(penalty=R1(weight=3.0))
    torch.manual_seed(4)
    gan.discriminator = spectral(nn.Linear(2, 1, bias=False).double(), n_power_iterations=1)
    gan.trainer = tiny_trainer(1)
    seen = []
    gan.discriminator.register_forward_hook(lambda layer, *_: seen.append(layer.weight.detach().clone()))
    (batch,) = gan.game_turns([tiny_points(8)])[0].micro_batches
    with gan.private_noise(1):
        gan.wanted_losses(batch, frozenset({"discriminator"}))
    _, reals, penalised = seen
    assert torch.equal(reals, penalised)
    (kept,) = gan._penalty_values["discriminator"].values()
    torch.testing.assert_close(kept, 1.5 * reals.square().sum())


# ---- fits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"game": strategy("opponent")},
        {"game": strategy("own")},
        {"game": strategy("difference")},
        {"game": strategy("difference"), "shared_latents": True},
        {"game": LEADStrategy(0.0)},
        {"game": GameStrategy(GradientPlay(), play="simultaneous")},
        {"discriminator_steps": 2},
        {"accumulate": 2},
    ],
    ids=["opponent", "own", "difference", "shared", "alpha 0", "plain, simultaneous", "two steps", "two pieces"],
)
def test_it_trains_and_says_what_the_discriminator_pays(settings):
    plain = tiny_gan(**settings)
    fit(plain, 4)
    for name, penalty in PENALTIES.items():
        gan = tiny_gan(penalty=penalty, **settings)
        trainer = fit(gan, 4, log_every_n_steps=2)
        assert trainer.global_step == 4, name
        assert all(torch.isfinite(p).all() for p in gan.parameters()), name
        assert furthest(gan.state_dict(), plain.state_dict()) > 1e-4, name
        logged = trainer.callback_metrics
        assert 0 < logged["penalty/discriminator"] < logged["loss/discriminator"], name


def test_alpha_zero_equals_plain_play_bit_for_bit():
    states = []
    for game in (LEADStrategy(0.0), GameStrategy(GradientPlay())):
        gan = tiny_gan(game=game, penalty=WGANGP())
        fit(gan)
        states.append(gan.state_dict())
    assert furthest(*states) == 0


def test_accumulation_is_the_same_step_in_smaller_pieces():
    """R1 draws nothing, so the mean over pieces is the mean; what is logged is it too."""
    states, logged = [], []
    for accumulate in (1, 2):
        gan = tiny_gan(penalty=R1(weight=3.0), accumulate=accumulate)
        logged.append(fit(gan).callback_metrics["penalty/discriminator"])
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12
    torch.testing.assert_close(*logged)


class LabelledGenerator(TinyGenerator):
    num_classes = 4

    def forward(self, latents, labels):
        return super().forward(latents) * labels[:, None]


class LabelledDiscriminator(nn.Module):
    num_classes = 4

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([1.0, 3.0, 5.0, 7.0]).double())

    def forward(self, x, labels):
        return self.slope[labels] * x[:, 0]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_labels_reach_a_penalised_discriminator(penalty):
    generator = LabelledGenerator(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    gan = LeadGANModule(generator, LabelledDiscriminator(), penalty=PENALTIES[penalty], generator_batch_size=12)
    data = torch.utils.data.TensorDataset(tiny_points(), torch.arange(96) % 4)
    trainer = tiny_trainer(1)
    trainer.fit(gan, torch.utils.data.DataLoader(data, 8))
    paid = {"R1": 1.5 * (1 + 9 + 25 + 49) / 4, "WGANGP": 3 * (0 + 4 + 16 + 36) / 4}
    assert float(trainer.callback_metrics["penalty/discriminator"]) == pytest.approx(paid[penalty])


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("form", ["opponent", "difference"])
def test_under_bf16_mixed_it_trains_and_the_penalty_is_in_float32(penalty, form, monkeypatch):
    seen, points = [], []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append((torch.is_autocast_enabled("cpu"), (out := super().forward(x)).dtype))
            return out

    generator, _ = tiny_networks(dtype=torch.float32)
    discriminator = nn.Sequential(Watched(2, 6), nn.Tanh(), nn.Linear(6, 1))
    gan = LeadGANModule(generator, discriminator, penalty=PENALTIES[penalty], game=strategy(form))
    inside = GANProblem.penalty_on

    def marked(problem, batch, fakes):
        start = len(seen)
        value = inside(problem, batch, fakes)
        points.extend(seen[start:])
        return value

    monkeypatch.setattr(GANProblem, "penalty_on", marked)
    data = torch.utils.data.TensorDataset(tiny_points().float())
    tiny_trainer(3, precision="bf16-mixed").fit(gan, torch.utils.data.DataLoader(data, 24))
    assert set(points) == {(False, torch.float32)}
    assert (True, torch.bfloat16) in seen
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in gan.parameters())


def everything(gan, trainer):
    anchors = gan.game.state_dict()["state"]["anchor"]
    optimizer = trainer.optimizers[0].state_dict()["state"]
    return [
        *gan.state_dict().values(),
        *(t for vector in anchors.values() for t in vector),
        *(t for entry in optimizer.values() for t in entry.values()),
    ]


@pytest.mark.parametrize("form", ["opponent", "difference"])
def test_a_resumed_run_is_the_uninterrupted_one(form, tmp_path):
    class Seeded(torch.utils.data.DataLoader):
        """Each step's batch is a function of how many came before, and it says how many."""

        begin = 0

        def __iter__(self):
            for k in range(self.begin, 6):
                self.handed_out = k + 1
                yield (tiny_points().roll(-16 * k, 0)[:16],)

        def state_dict(self):
            return {"batches": self.handed_out}

        def load_state_dict(self, state):
            self.begin = state["batches"] % 6

    def run(seed, ckpt=None):
        gan = LeadGANModule(*networks("smooth, spectral norm, dropout"), penalty=WGANGP(), game=strategy(form))
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename=f"{seed}-{{step}}")
        trainer = tiny_trainer(5, callbacks=[saver], enable_checkpointing=True)
        torch.manual_seed(seed)
        trainer.fit(gan, Seeded(torch.utils.data.TensorDataset(tiny_points()), 16), ckpt_path=ckpt)
        return everything(gan, trainer)

    whole = run(1)
    resumed, another = run(77, tmp_path / "1-step=2.ckpt"), run(5)
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(another, whole, strict=True))


class Point(nn.Module):
    """Puts every sample at x."""

    latent_dim = 1

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.full((1,), 0.1, dtype=torch.float64))

    def forward(self, latents):
        return self.x.expand(len(latents), 1)


def test_r1_stops_the_circles_of_the_dirac_gan():
    """One real sample at 0, one fake at x, D(s) = y·s: simultaneous plain play, 70 steps of h = 0.5 from (0.1, 0.1).

    Linearised at the origin, (x, y) ← (I − h[[0, −½], [½, γ]])(x, y): with γ = 1 both eigenvalues are 1 − h/2, and
    with γ = 0 they are 1 ± ih/2, of modulus above 1.
    """

    def distance(penalty):
        discriminator = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(discriminator.weight, 0.1)
        gan = LeadGANModule(
            generator := Point(),
            discriminator,
            penalty=penalty,
            game=GameStrategy(GradientPlay(), play="simultaneous"),
            optimizer=torch.optim.SGD,
            generator_lr=0.5,
            discriminator_lr=0.5,
        )
        tiny_trainer(70).fit(gan, torch.utils.data.DataLoader(torch.zeros(70, 1, dtype=torch.float64), 1))
        return math.hypot(generator.x.item(), discriminator.weight.item())

    start = math.hypot(0.1, 0.1)
    # a double eigenvalue: k steps leave at most (1 + k) times its power
    assert distance(R1(weight=1.0)) < 71 * 0.75**70 * start < 1e-7
    assert distance(None) > 2 * start


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", ["R1", 10.0, R1, lambda real: 0.0])
def test_what_is_no_penalty_is_refused_at_construction(penalty):
    with pytest.raises(ConfigurationError, match=r"Cannot use .* penalty because .*; pass .*\(got"):
        tiny_gan(penalty=penalty)


class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return self.logit.expand(len(x), 1)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_discriminator_that_does_not_look_at_its_input_is_found_before_the_first_step(alpha):
    gan = LeadGANModule(tiny_networks()[0], Blind(), penalty=R1(), game=LEADStrategy(alpha))
    with pytest.raises(DifferentiationError, match="logits do not depend on its input"):
        fit(gan)


class Once(torch.autograd.Function):
    """A square that says that it has one derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Twice(torch.autograd.Function):
    """A cube that has two derivatives, of which the second says that it is the last; and its forward-mode rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * Once.apply(ctx.saved_tensors[0]) * grad

    @staticmethod
    def jvp(ctx, dx):
        return 3 * ctx.saved_tensors[0] ** 2 * dx


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


@pytest.mark.parametrize("game", [LEADStrategy(0.0), strategy("difference"), strategy("opponent")])
def test_a_layer_without_a_second_derivative_is_found_before_the_first_step(game):
    gan = tiny_gan(penalty=R1(), game=game)
    gan.discriminator.insert(2, Layer(Once))
    gan.discriminator.append(nn.SyncBatchNorm(1).double().eval().requires_grad_(False))  # named, as one of the usual
    before = {name: p.clone() for name, p in gan.state_dict().items()}
    who = "R1 because" if game.rule.needs.uses_opponent else "the loss of player 'discriminator' because"
    with pytest.raises(DifferentiationError, match=rf"{who} .* second derivative; .*look at .*4 \(SyncBatchNorm\)"):
        fit(gan)
    assert furthest(before, gan.state_dict()) == 0


def test_a_layer_without_a_third_derivative_is_found_where_the_cross_term_needs_it():
    def build(penalty, game):
        gan = tiny_gan(penalty=penalty, game=game)
        gan.discriminator.insert(2, Layer(Twice))
        return gan

    with pytest.raises(
        DifferentiationError, match=r"WGANGP because .* no third derivative\. .*take R1 or ApproximateR1, or LEADStrat"
    ):
        fit(build(WGANGP(), strategy("opponent")))
    for penalty, game in ((WGANGP(), strategy("difference")), (R1(), LEADStrategy(0.0))):
        assert fit(build(penalty, game)).global_step == 3


class OfPairs(nn.Module):
    """Instance norm, which is a batch norm, of 6 numbers as 2 channels of 3."""

    def forward(self, x):
        return nn.functional.instance_norm(x.reshape(-1, 2, 3)).reshape(-1, 6)


def with_norm(norm):
    generator, discriminator = networks("smooth")
    discriminator[1] = norm.double()
    return generator, discriminator


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("norm", "found"),
    [
        (lambda: nn.BatchNorm1d(6), r"look at 1 \(BatchNorm1d\).*derivative of batch norm"),
        (lambda: nn.LayerNorm(6), r"look at 1 \(LayerNorm\).*derivative of layer norm"),
        (OfPairs, "derivative of batch norm"),
    ],
)
def test_norms_in_a_discriminator_have_two_derivatives(norm, found, form):
    """Of these torch has no third derivative, or worse, a wrong one; which one it is depends on its version."""
    gan = LeadGANModule(*with_norm(norm()), penalty=WGANGP(), game=strategy(form))
    if form == "difference":
        assert fit(gan).global_step == 3
        return
    before = {name: p.clone() for name, p in gan.state_dict().items()}
    with pytest.raises(DifferentiationError, match=f"third derivative.*{found}"):
        fit(gan)
    assert furthest(before, gan.state_dict()) == 0
    with pytest.raises(DifferentiationError, match="third derivative of (batch|layer) norm is wrong"):
        fit(Declined(*with_norm(norm()), penalty=WGANGP(), game=strategy(form)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_norms_in_a_discriminator_suit_a_penalty_on_reals(norm, form):
    assert fit(LeadGANModule(*with_norm(norm(6)), penalty=R1(), game=strategy(form))).global_step == 3


class Frozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


class ByHand(nn.Module):
    """Group norm of one group."""

    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) * (x.var(1, keepdim=True, correction=0) + 1e-5).rsqrt()


def test_norms_with_a_third_derivative_are_played():
    """Batch norm by running statistics is an affine map, and group norm is as if written by hand."""
    states = []
    for norm in (nn.GroupNorm(1, 6, affine=False), ByHand()):
        gan = LeadGANModule(*with_norm(norm), penalty=WGANGP(), game=strategy("own"), optimizer=torch.optim.SGD)
        assert fit(gan).global_step == 3
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12
    frozen = Frozen(6).eval()
    assert fit(LeadGANModule(*with_norm(frozen), penalty=WGANGP(), game=strategy("own"))).global_step == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_discriminator_is_penalised_as_it_was_written():
    """Compiled code has no second derivative; the penalty is the same without it."""
    states = []
    for compiled in (False, True):
        gan = tiny_gan(penalty=R1(), game=strategy("difference"))
        if compiled:
            torch._dynamo.reset()
            gan.discriminator.compile(backend="aot_eager")
        fit(gan)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_residual_network_takes_the_structured_way(penalty):
    torch.manual_seed(1)
    data, states = torch.randn(8, 3, 8, 8, dtype=torch.float64), []
    for module in (LeadGANModule, Declined):
        torch.manual_seed(1)
        pair = SNGANGenerator(latent_dim=4, width=4).double(), SNGANDiscriminator(width=4).double()
        pair[0].stem, pair[0].side = nn.Linear(4, 4).double(), 1  # images of 8×8
        gan = module(*pair, objective="hinge", penalty=PENALTIES[penalty], optimizer=torch.optim.SGD)
        torch.manual_seed(2)
        tiny_trainer(2).fit(gan, torch.utils.data.DataLoader(data, 4))
        assert gan._structure.piecewise_linear is (module is LeadGANModule)
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12

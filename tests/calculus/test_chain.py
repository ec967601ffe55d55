"""The cross term by the structure of a GAN equals the one by differentiating the whole, and says when it cannot."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from lightning_utilities.core import rank_zero
from pairs import pairwise
from tiny import tiny_gan, tiny_loader, tiny_networks, tiny_trainer
from torch import nn
from torch.autograd import forward_ad

import lightning_lead.gan._chain_losses
from lightning_lead import ConfigurationError, LeadGANModule, LEADStrategy
from lightning_lead.calculus._chain.dual import dual_vector, lean_duals, split_dual
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.networks import (
    ConditionalNorm,
    DCGAN32Discriminator,
    DCGAN32Generator,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    SNGANDiscriminator,
    SNGANGenerator,
)
from lightning_lead.objectives import R1

spectral = nn.utils.parametrizations.spectral_norm
OBJECTIVES = ["non_saturating", "minimax", "hinge", "wasserstein"]
FORMS = ["opponent", "own", "difference"]
SCHEDULES = [{}, {"discriminator_steps": 3}, {"accumulate": 2}, {"generator_batch_size": 20}, {"shared_latents": True}]
COUPLINGS = [0.7, *({"discriminator": d, "generator": g} for d, g in [(0.7, 0.02), (0.7, 0.0), (0.0, 0.7)])]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def networks(kind):
    torch.manual_seed(1)
    if kind == "mlp":
        pair = MLPGenerator(latent_dim=4, width=12), MLPDiscriminator(width=12)
    elif kind == "smooth mlp":
        pair = (
            MLPGenerator(latent_dim=4, width=12, activation="tanh"),
            MLPDiscriminator(width=12, activation="softplus"),
        )
    elif kind == "residual mlp":  # with the norms of a residual network of images, for less
        pair = (
            nn.Sequential(nn.Linear(4, 6), Residual(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6)), nn.Linear(6, 2)),
            nn.Sequential(
                spectral(nn.Linear(2, 6)), Residual(nn.ReLU(), spectral(nn.Linear(6, 6))), spectral(nn.Linear(6, 1))
            ),
        )
        pair[0].latent_dim = 4
    elif kind == "dcgan":
        pair = DCGANGenerator(latent_dim=4, width=2), DCGANDiscriminator(width=2)
    elif kind == "dcgan, batch norm in both":
        pair = (
            DCGANGenerator(latent_dim=4, width=2),
            DCGANDiscriminator(width=2, normalization="batch", spectral_norm=False),
        )
    elif kind == "conditional dcgan":
        pair = DCGANGenerator(latent_dim=4, width=2, num_classes=3), DCGANDiscriminator(width=2, num_classes=3)
    elif kind == "strided dcgan":
        pair = DCGAN32Generator(latent_dim=4, width=1), DCGAN32Discriminator(width=1)
    else:
        classes = 3 if "conditional" in kind else None
        pair = (
            SNGANGenerator(latent_dim=4, width=4, num_classes=classes),
            SNGANDiscriminator(width=4, num_classes=classes),
        )
        pair[0].stem, pair[0].side = nn.Linear(4, 4), 1  # images of 8×8
        for module in pair[0].modules():  # all classes begin alike
            if isinstance(module, ConditionalNorm):
                nn.init.normal_(module.scale.weight, 1.0, 0.3)
    return tuple(network.double() for network in pair)


def batches(kind):
    large = {"sngan": (3, 8, 8), "conditional sngan": (3, 8, 8), "strided dcgan": (3, 32, 32)}
    shape = (2,) if "mlp" in kind else large.get(kind, (1, 8, 8))
    size = 4 if kind in large else 12
    generator = torch.Generator().manual_seed(3)
    real = torch.randn(3 * size, *shape, generator=generator, dtype=torch.float64)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(real, torch.arange(3 * size) % 3) if "conditional" in kind else real, size
    )


def trained(kind, *, structured, game, steps=3, **settings):
    """State after a few steps: with the structure, or with it declined."""

    class Declined(LeadGANModule):
        def _find_structure(self, *_):
            return Structure("the test says so", None)

    gan = (LeadGANModule if structured else Declined)(
        *networks(kind), game=game, generator_lr=1e-2, discriminator_lr=1e-2, **settings
    )
    torch.manual_seed(2)
    tiny_trainer(steps).fit(gan, batches(kind))
    assert gan._structure.chained is structured
    return gan.state_dict()


def strategy(form, alpha=0.7, **settings):
    chosen = {"cross": form} if form in ("difference", "extrapolated") else {"form": form or "opponent"}
    return LEADStrategy(alpha, **chosen, **settings)


def furthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


@pytest.mark.parametrize(
    ("kind", "form", "play", "objective"),
    pairwise(
        ["mlp", "smooth mlp", "dcgan", "dcgan, batch norm in both", "conditional dcgan"],
        ["opponent", "own"],
        ["alternating", "simultaneous"],
        OBJECTIVES,
    ),
)
def test_both_ways_give_the_same_weights_and_buffers(kind, form, play, objective):
    """Every parameter and buffer after three steps; SGD, because Adam would amplify rounding where a gradient is 0."""
    states = [
        trained(
            kind,
            structured=structured,
            game=strategy(form, play=play),
            objective=objective,
            optimizer=torch.optim.SGD,
        )
        for structured in (True, False)
    ]
    assert furthest(*states) < 1e-12


@pytest.mark.parametrize(("form", "schedule", "coupling"), pairwise(FORMS, SCHEDULES, COUPLINGS), ids=str)
def test_both_ways_give_the_same_for_every_schedule_and_coupling(form, schedule, coupling):
    """One coupling of both players, or each its own; spectral norm, and batch norm in the generator.

    Neither with shared latents, whose fakes the structure computes once for both players: it moves buffers less often.
    """
    kind = "mlp" if "shared_latents" in schedule else "residual mlp"
    states = [
        trained(
            kind,
            structured=structured,
            game=strategy(form, alpha=coupling),
            objective="hinge",
            optimizer=torch.optim.SGD,
            **schedule,
        )
        for structured in (True, False)
    ]
    assert furthest(*states) < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["conditional sngan", "strided dcgan"])
def test_both_ways_give_the_same_for_the_networks_of_the_recipes(kind, form):
    settings = {"objective": "hinge"} if "sngan" in kind else {}
    states = [
        trained(kind, structured=structured, game=strategy(form), optimizer=torch.optim.SGD, **settings)
        for structured in (True, False)
    ]
    assert furthest(*states) < 1e-12


NORMS = {
    "instance norm": lambda size: nn.InstanceNorm2d(4),
    "instance norm, affine": lambda size: nn.InstanceNorm2d(4, affine=True),
    "instance norm, running statistics": lambda size: nn.InstanceNorm2d(4, track_running_stats=True),
    "layer norm": lambda size: nn.LayerNorm([4, size, size]),
    "layer norm of rows, no bias": lambda size: nn.LayerNorm(size, bias=False),
    "layer norm, not affine": lambda size: nn.LayerNorm([size, size], elementwise_affine=False),
    "group norm": lambda size: nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize(
    ("norm", "form", "play", "penalty"),
    pairwise(NORMS, ["opponent", "own"], ["alternating", "simultaneous"], [None, R1(weight=1.0)]),
    ids=str,
)
def test_both_ways_give_the_same_with_norms_within_a_sample(norm, form, play, penalty):
    """torch's own tangents of instance norm and layer norm are right, and their reverse derivatives are not."""
    states = []
    for structured in (True, False):
        torch.manual_seed(5)
        generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (4, 4, 4)), NORMS[norm](4), nn.Tanh())
        discriminator = nn.Sequential(nn.Conv2d(4, 4, 2), NORMS[norm](3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 1))
        for parameter in [*generator[2].parameters(), *discriminator[1].parameters()]:
            nn.init.normal_(parameter, 1.0, 0.3)
        gan = LeadGANModule(
            generator.double(),
            discriminator.double(),
            game=strategy(form, play=play),
            latent_dim=4,
            penalty=penalty,
            optimizer=torch.optim.SGD,
            generator_lr=1e-2,
            discriminator_lr=1e-2,
        )
        if not structured:
            gan._find_structure = lambda *_: Structure("the test says so", None)
            if penalty is not None:  # which no cross term holds; as a whole its third derivative would be looked at
                gan._probe = lambda *_: None
        data = torch.randn(36, 4, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        tiny_trainer(3).fit(gan, torch.utils.data.DataLoader(data, 12))
        assert gan._structure.chained is structured
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


@pytest.mark.parametrize(
    ("settings", "fallback", "least_agreement"),
    pairwise(
        [{}, {"play": "simultaneous"}, {"discriminator_steps": 3}, {"shared_latents": True}, {"accumulate": 2}],
        ["exact", "difference"],
        [-1.0, 0.97, 1.0],  # extrapolated, now one and now the other, exact
    ),
    ids=str,
)
def test_both_ways_give_the_same_where_forms_check_themselves(settings, fallback, least_agreement):
    play = {"play": settings["play"]} if "play" in settings else {}
    game = {"cross": "auto", "check_every": 2, "least_agreement": least_agreement, "fallback": fallback, **play}
    others = {key: value for key, value in settings.items() if key != "play"}
    states = [
        trained(
            "smooth mlp",
            structured=structured,
            game=LEADStrategy(0.7, **game),
            steps=4,
            optimizer=torch.optim.SGD,
            **others,
        )
        for structured in (True, False)
    ]
    assert furthest(*states) < 1e-12


@pytest.mark.parametrize(("kind", "fast"), [("conditional sngan", True), ("conditional dcgan", False)])
def test_a_projection_by_a_linear_layer_leaves_the_discriminator_piecewise_linear(kind, fast):
    gan = LeadGANModule(*networks(kind), game=LEADStrategy(0.7), objective="hinge")
    tiny_trainer(1).fit(gan, batches(kind))
    assert gan._structure.chained
    assert (gan._structure.not_piecewise_linear is None) == fast


def test_the_comparison_would_see_a_wrong_sign():
    states = [
        trained("mlp", structured=True, game=LEADStrategy(alpha), optimizer=torch.optim.SGD) for alpha in (0.7, 0.69)
    ]
    assert furthest(*states) > 1e-9


@pytest.mark.parametrize("cross", ["exact", "difference"])
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_both_spectral_norms_and_dropout_in_both_players(norm, cross):
    states = []
    for structured in (True, False):
        gan = tiny_gan(game=LEADStrategy(0.7, cross=cross), optimizer=torch.optim.SGD)
        torch.manual_seed(4)
        gan.generator[0], gan.discriminator[0] = norm(gan.generator[0]), norm(gan.discriminator[0])
        gan.generator.insert(1, nn.Dropout(0.2))
        gan.discriminator.insert(1, nn.Dropout(0.2))
        if not structured:
            gan._find_structure = lambda *_: Structure("the test says so", None)
        tiny_trainer(3).fit(gan, tiny_loader(24))
        assert gan._structure.chained is structured
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


class Relativistic:
    """L_D is of reals and fakes together, and its slope in t depends on r also where its curvature is zero."""

    def generator_loss(self, fake_logits):
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits, fake_logits):
        return torch.relu(0.3 - (real_logits - fake_logits)).square().mean() + (real_logits * fake_logits).mean()


@pytest.mark.parametrize("form", FORMS)
def test_an_objective_that_mixes_reals_and_fakes(form):
    states = [
        trained(
            "smooth mlp",
            structured=structured,
            game=strategy(form),
            objective=Relativistic(),
            optimizer=torch.optim.SGD,
        )
        for structured in (True, False)
    ]
    assert furthest(*states) < 1e-12


class Decayed(LeadGANModule):
    """The generator's loss depends on its weights other than through D(G(z))."""

    def generator_loss(self, fake_logits):
        return super().generator_loss(fake_logits) + sum(p.square().sum() for p in self.generator.parameters())


class Private(torch.autograd.Function):
    """A square without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class PrivateSquare(nn.Module):
    def forward(self, x):
        return Private.apply(x)


class Whole(LeadGANModule):
    def wanted_losses(self, batch, wanted):
        return super().wanted_losses(batch, wanted)


class HiddenTangent(nn.Module):
    """Divides by a statistic that reverse mode takes as given, and forward mode would differentiate."""

    def forward(self, x):
        with torch.no_grad():
            size = x.abs().mean()
        return x / size


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Decayed(*tiny_networks()), "meet outside"),
        (lambda: Whole(*tiny_networks()), "wanted_losses"),
        (lambda: _with_layer(PrivateSquare()), "forward-mode derivatives are missing"),
        (lambda: _with_layer(HiddenTangent()), "differs by"),
    ],
)
def test_losses_without_the_structure_take_the_general_way_and_say_why(make, reason, caplog):
    gan = make()
    with caplog.at_level(logging.INFO, logger=rank_zero.log.name):
        tiny_trainer(2).fit(gan, tiny_loader(24))
    assert not gan._structure.chained
    (said,) = [record.getMessage() for record in caplog.records if "docs/cost.md" in record.getMessage()]
    assert said.startswith("The derivatives of LEAD are taken of the losses as a whole")
    assert reason in said


def test_nothing_is_said_where_nothing_is_lost(caplog):
    """A rule without use for the structure, and a game with it."""
    with caplog.at_level(logging.INFO, logger=rank_zero.log.name):
        tiny_trainer(1).fit(Whole(*tiny_networks(), game=LEADStrategy(0.0)), tiny_loader(24))
        tiny_trainer(1).fit(tiny_gan(), tiny_loader(24))
    assert "docs/cost.md" not in caplog.text


def _with_layer(layer):
    gan = LeadGANModule(*tiny_networks())
    gan.discriminator.insert(1, layer)
    return gan


def test_the_structure_is_used_and_said(caplog):
    gan = tiny_gan()
    with caplog.at_level(logging.DEBUG, logger="lightning_lead.gan"):
        tiny_trainer(1).fit(gan, tiny_loader(24))
    assert gan._structure.chained
    assert "by structure" in caplog.text


def test_a_player_whose_loss_is_saturated_on_the_samples_does_not_hide_the_structure():
    """With hinge, a discriminator that is sure of both has no gradient; the generator's shows the structure."""
    gan = tiny_gan(objective="hinge", game=LEADStrategy(0.7, cross="difference"))
    gan._real_logits = lambda batch: torch.full((len(batch.real), 1), 9.0, dtype=torch.float64)
    with torch.no_grad():
        gan.discriminator[-1].bias.fill_(-9.0)
    tiny_trainer(1).fit(gan, tiny_loader(24))
    assert gan._structure.chained


def test_what_is_inspected_does_not_change_what_is_learnt():
    states = []
    for every in (1, 50):
        gan = tiny_gan()
        torch.manual_seed(2)
        tiny_trainer(4, log_every_n_steps=every).fit(gan, tiny_loader(24))
        states.append(gan.state_dict())
    assert furthest(*states) == 0


@pytest.mark.parametrize(
    "layer", [nn.Linear(3, 2), nn.Conv1d(3, 2, 2), nn.ConvTranspose2d(3, 2, 2), nn.Conv2d(3, 2, 1)]
)
def test_lean_duals_agree_with_a_finite_difference(layer):
    """Bilinear layers are quadratic in the step, so a central difference is exact to rounding."""
    layer = layer.double()
    shape = {nn.Linear: (5, 3), nn.Conv1d: (5, 3, 4)}.get(type(layer), (5, 3, 4, 4))
    x = torch.randn(*shape, dtype=torch.float64)
    weight = tuple(p.detach() for p in layer.parameters())
    for moves in itertools.product([0.0, 1.0], repeat=3):
        deltas = [torch.randn_like(t) * m for t, m in zip((x, *weight), moves, strict=True)]

        def at(step, deltas=deltas):
            values = [t + step * d for t, d in zip((x, *weight), deltas, strict=True)]
            return torch.func.functional_call(layer, dict(zip(("weight", "bias"), values[1:], strict=True)), values[0])

        with lean_duals():
            inputs = [
                dual_vector((t,), (d,))[0] if m else t for t, d, m in zip((x, *weight), deltas, moves, strict=True)
            ]
            primal, tangent = split_dual(
                torch.func.functional_call(layer, dict(zip(("weight", "bias"), inputs[1:], strict=True)), inputs[0])
            )
        assert torch.equal(primal, at(0.0))
        if any(moves):
            assert (tangent - (at(0.5) - at(-0.5))).abs().max() < 1e-12
        else:
            assert tangent is None


@pytest.mark.parametrize("moves", [(True, True), (True, False), (False, True), (False, False)])
def test_an_inner_product_of_duals_has_torch_s_own_tangent(moves):
    """As spectral norms call it; the tangent can be differentiated once more."""
    (x, y), (dx, dy) = torch.randn(2, 2, 5, dtype=torch.float64)
    x.requires_grad_(), y.requires_grad_()

    def found(level):
        with level:
            duals = [dual_vector((t,), (d,))[0] if m else t for t, d, m in zip((x, y), (dx, dy), moves, strict=True)]
            primal, tangent = split_dual(torch.vdot(duals[0], other=duals[1]))
        if tangent is None:
            return [primal]
        grads = torch.autograd.grad(tangent, (x, y), allow_unused=True)
        return [primal, tangent, *(torch.zeros_like(x) if g is None else g for g in grads)]

    for mine, theirs in zip(found(lean_duals()), found(forward_ad.dual_level()), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_has_the_right_second_derivative(training):
    """The gradient of a tangent equals the one by differentiating twice; torch's own rule misses part of it."""
    layer = nn.BatchNorm2d(3).double().train(training)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    layer.running_var.uniform_(0.5, 2.0)
    x, dx = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    x.requires_grad_()

    def loss(value):
        return (layer(value) ** 3).mean()

    with lean_duals():
        tangent = split_dual(loss(dual_vector((x,), (dx,))[0]))[1]
    parameters = [x, *layer.parameters()]
    forward = torch.autograd.grad(tangent, parameters)
    (slope,) = torch.autograd.grad(loss(x), x, create_graph=True)
    twice = torch.autograd.grad((slope * dx).sum(), parameters)
    assert max((a - b).abs().max() for a, b in zip(forward, twice, strict=True)) < 1e-12


@pytest.mark.parametrize("settings", [{}, {"discriminator_steps": 3}, {"accumulate": 2}])
@pytest.mark.parametrize("dropout", [False, True])
def test_with_shared_latents_the_free_correction_is_the_direct_difference(settings, dropout, monkeypatch):
    """Without spectral norm, whose vectors move on between the two players' steps."""
    served = []
    kept = lightning_lead.gan._chain_losses.GANLosses.kept
    monkeypatch.setattr(
        lightning_lead.gan._chain_losses.GANLosses, "kept", lambda self: served.append(kept(self)) or served[-1]
    )
    states = []
    for structured in (True, False):
        gan = LeadGANModule(
            *tiny_networks(),
            game=LEADStrategy(0.7, cross="difference"),
            optimizer=torch.optim.SGD,
            generator_lr=0.1,
            discriminator_lr=0.1,
            shared_latents=True,
            **settings,
        )
        if dropout:
            gan.generator.insert(1, nn.Dropout(0.2))
            gan.discriminator.insert(1, nn.Dropout(0.2))
        if not structured:
            gan._find_structure = lambda *_: Structure("the test says so", None)
        torch.manual_seed(2)
        tiny_trainer(4).fit(gan, tiny_loader(24))
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12
    assert sum(shared is not None for shared in served) == 3 * settings.get("accumulate", 1)  # from the second step on


@pytest.mark.parametrize("cross", [None, "difference"])
def test_simultaneous_play_shares_no_fakes_where_a_loss_bypasses_them(cross):
    """A penalty on the generator's weights has no part in what is pulled back through its fakes."""

    class DecayedWhole(Decayed, Whole):
        pass

    states = []
    for kind in (Decayed, DecayedWhole):
        game = LEADStrategy(0.0 if cross is None else 0.7, cross=cross or "exact", play="simultaneous")
        gan = kind(*tiny_networks(), game=game, optimizer=torch.optim.SGD, generator_lr=0.1)
        torch.manual_seed(2)
        tiny_trainer(3).fit(gan, tiny_loader(24))
        states.append(gan.state_dict())
    assert furthest(*states) < 1e-12


def test_shared_latents_refuse_a_generator_batch_of_another_size():
    with pytest.raises(ConfigurationError, match="share latents"):
        tiny_gan(shared_latents=True, generator_batch_size=8)


def test_simultaneous_play_keeps_no_fakes_for_a_later_step():
    gan = tiny_gan(shared_latents=True, game=LEADStrategy(0.7, cross="difference", play="simultaneous"))
    tiny_trainer(3).fit(gan, tiny_loader(24))
    assert gan._first == {}

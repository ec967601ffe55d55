"""A piecewise-linear discriminator's tangents equal those of dual arithmetic, and no other network is taken for one."""

from __future__ import annotations

import logging

import pytest
import torch
from pytorch_lightning.callbacks import LambdaCallback
from tiny import tiny_loader, tiny_networks, tiny_trainer
from torch import nn
from torch.autograd import forward_ad

from lightning_lead import LeadGANModule, LEADStrategy
from lightning_lead.calculus import Swap, frozen_buffers
from lightning_lead.calculus._chain.dual import dual_vector, lean_duals, split_dual
from lightning_lead.calculus._chain.links import Structure
from lightning_lead.calculus._chain.piecewise import logits_along_fakes, logits_along_parameters
from lightning_lead.gan._structure import why_not_piecewise_linear
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, SNGANDiscriminator

spectral = nn.utils.parametrizations.spectral_norm


class Pooled(nn.Module):
    """Convolutions of every kind, max pooling, a skip connection, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.grouped = spectral(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        h = nn.functional.leaky_relu(self.first(x), 0.2, inplace=True)
        h = nn.functional.max_pool2d(h + self.grouped(torch.relu(self.grouped(h))), 2)
        return self.head(h.mean((2, 3)))


class Tokens(nn.Sequential):
    """Linear layers and a one-dimensional convolution on sequences."""

    def __init__(self):
        super().__init__(nn.Linear(3, 5), nn.LeakyReLU(0.1), nn.Conv1d(4, 2, 2), nn.Flatten(), nn.Linear(8, 1))


class Labelled(nn.Module):
    """A branch that the data does not reach: parameters that move there are part of the slope all the same."""

    def __init__(self):
        super().__init__()
        self.data, self.label, self.head = nn.Linear(3, 5), nn.Linear(2, 5), nn.Linear(5, 1)

    def forward(self, x):
        label = torch.eye(2, dtype=x.dtype)[torch.arange(len(x)) % 2]
        return self.head(torch.relu(self.data(x) + torch.relu(self.label(label))))


PIECEWISE = {
    "MLP": (lambda: MLPDiscriminator(width=8), (2,)),
    "DCGAN": (lambda: DCGANDiscriminator(width=4), (1, 8, 8)),
    "SNGAN": (lambda: SNGANDiscriminator(width=4), (3, 32, 32)),
    "every kind of layer": (Pooled, (2, 8, 8)),
    "sequences": (Tokens, (4, 3)),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)), (1, 3, 3, 3)),
    "no bias": (lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)), (3,)),
    "labels": (Labelled, (3,)),
    "linear": (lambda: nn.Linear(3, 1), (3,)),
}


class Case:
    """A network, its data and tangents, and the cotangents of logits and slopes."""

    def __init__(self, make, shape):
        torch.manual_seed(0)
        self.network = make().double()
        self.data, self.tangent = torch.randn(2, 5, *shape, dtype=torch.float64)
        self.own = tuple(p.detach().requires_grad_() for p in self.network.parameters())
        self.moved = tuple(torch.randn_like(p) for p in self.own)
        self.c, self.e = torch.randn(2, 5, dtype=torch.float64)
        swap = Swap(self.network, {"d": list(self.network.parameters())})
        self.swap = lambda vector: swap({"d": vector})

    def discriminator(self, data):
        with frozen_buffers(self.network):
            return self.network(data)

    def total(self, pair):
        logits, slopes = pair
        return (self.c * logits.flatten() + self.e * slopes.flatten()).sum()

    def why_not(self):
        frozen = tuple(p.detach() for p in self.own)
        return why_not_piecewise_linear(
            self.discriminator, self.data, frozen, self.swap, lambda: frozen_buffers(self.network)
        )


@pytest.fixture(params=PIECEWISE)
def case(request):
    return Case(*PIECEWISE[request.param])


def test_along_data_equals_dual_arithmetic(case):
    with case.swap(case.own):
        fast = logits_along_fakes(case.discriminator, case.data, case.tangent)
        with lean_duals():
            dual = split_dual(case.discriminator(forward_ad.make_dual(case.data, case.tangent)))
        for mine, theirs in zip(fast, dual, strict=True):
            assert (mine - theirs).abs().max() < 1e-12
        grads = [torch.autograd.grad(case.total(pair), case.own, allow_unused=True) for pair in (fast, dual)]
    for mine, theirs in zip(*grads, strict=True):
        # a bias has no part in a slope, so dual arithmetic may leave out what is zero here
        assert (mine - theirs).abs().max() < 1e-12 * (1 + theirs.abs().max())


def test_along_parameters_equals_dual_arithmetic(case):
    data = case.data.clone().requires_grad_()
    frozen = tuple(p.detach() for p in case.own)
    fast = logits_along_parameters(case.discriminator, data, frozen, case.moved, case.swap)
    with lean_duals(), case.swap(dual_vector(frozen, case.moved)):
        dual = split_dual(case.discriminator(data))
    for mine, theirs in zip(fast, dual, strict=True):
        assert (mine - theirs).abs().max() < 1e-12 * (1 + theirs.abs().max())
    mine, theirs = (torch.autograd.grad(case.total(pair), data)[0] for pair in (fast, dual))
    assert (mine - theirs).abs().max() < 1e-12 * (1 + theirs.abs().max())


def test_it_is_recognised(case):
    assert case.why_not() is None


class Scaled(nn.Module):
    """A parameter outside of linear layers; piecewise linear, but not taken apart."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Linear(3, 4), nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return torch.relu(self.inner(x) * self.scale).sum(1)


class Meeting(nn.Linear):
    """Samples are compared with their mean: linear, but not sample by sample."""

    def forward(self, x):
        h = super().forward(x)
        return torch.relu(h - h.mean(0)).sum(1)


class Squared(nn.Linear):
    def forward(self, x):
        h = super().forward(x)
        return (h * h).sum(1)


class Inverted(nn.Linear):
    def forward(self, x):
        return (torch.ones(4, dtype=x.dtype) / super().forward(x)).sum(1)


class MeetingLater(nn.Module):
    """Samples meet in a branch that is initialised with zeros."""

    def __init__(self):
        super().__init__()
        self.inner, self.branch, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        nn.init.zeros_(self.branch.weight), nn.init.zeros_(self.branch.bias)

    def forward(self, x):
        h = torch.relu(self.inner(x))
        return self.head(h + self.branch(h - h.mean(0)))


class TinyScale(nn.Module):
    """A parameter of its own with a gradient that is small beside the others'."""

    def __init__(self):
        super().__init__()
        self.inner, self.shift = nn.Linear(3, 4), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return torch.relu(self.inner(x) + 1e-5 * self.shift).sum(1)


class LeakyRelu(torch.autograd.Function):
    """A square under the name of something piecewise linear."""

    generate_vmap_rule = False

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Disguised(nn.Linear):
    def forward(self, x):
        return LeakyRelu.apply(super().forward(x)).sum(1)


class Padded(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv1d(1, 2, 2, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(6, 1))

    def forward(self, x):
        return super().forward(x.unsqueeze(1))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), "Tanh"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)), "BatchNorm"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)), "LayerNorm"),
        (lambda: Squared(3, 4), "Mul"),
        (lambda: Inverted(3, 4), "Div"),
        (lambda: Meeting(3, 4), "samples meet"),
        (Scaled, "outside of linear layers"),
        (MeetingLater, "samples meet"),
        (TinyScale, "outside of linear layers"),
        (lambda: Disguised(3, 4), "LeakyReluBackward is not"),
        (Padded, "padding"),
        (lambda: nn.Linear(3, 2), "returns"),
    ],
)
def test_what_does_not_qualify_is_refused_and_why(make, reason):
    assert reason in Case(make, (3,)).why_not()


def test_one_sample_and_coarse_numbers_show_nothing():
    case = Case(*PIECEWISE["MLP"])
    case.data = case.data[:1]
    assert "where there are two" in case.why_not()
    case = Case(*PIECEWISE["MLP"])
    case.own = tuple(p.detach().bfloat16() for p in case.own)
    assert "too coarse" in case.why_not()


class FeatureMatching(LeadGANModule):
    """The generator's loss is of features that the discriminator's forward has kept, and not of logits alone."""

    def generator_loss(self, fake_logits):
        return 1e-6 * self.discriminator.features.square().mean() + fake_logits.square().mean()


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(2, 6), nn.ReLU()), nn.Linear(6, 1)

    def forward(self, x):
        self.features = self.body(x)
        return self.head(self.features)


def test_a_loss_of_features_is_not_taken_for_one_of_logits():
    generator, _ = tiny_networks()
    gan = FeatureMatching(generator, Keeping().double(), game=LEADStrategy(form="own"))
    tiny_trainer(1).fit(gan, tiny_loader(24))
    assert "more of the discriminator than its logits" in gan._structure.not_piecewise_linear


def test_what_is_known_of_a_discriminator_is_found_anew_when_a_layer_is_unfrozen():
    generator, _ = tiny_networks()
    discriminator = Scaled().double()
    discriminator.inner = nn.Linear(2, 4).double()
    discriminator.scale.requires_grad_(False)
    gan = LeadGANModule(generator, discriminator, game=LEADStrategy())
    seen = []

    def unfreeze(trainer, module, *_):
        seen.append(module._structure.piecewise_linear)
        discriminator.scale.requires_grad_(trainer.global_step >= 2)

    tiny_trainer(4, callbacks=[LambdaCallback(on_train_batch_end=unfreeze)]).fit(gan, tiny_loader(24))
    assert seen == [True, True, False, False]


def trained(*, piecewise, form="opponent", play="alternating", dropout=False, **settings):
    class Dual(LeadGANModule):
        def _find_structure(self, *_):
            return Structure(None, "the test says so")

    torch.manual_seed(1)
    pair = [DCGANGenerator(latent_dim=4, width=2), DCGANDiscriminator(width=2)]
    if dropout:
        pair[1] = nn.Sequential(nn.Dropout(0.2), pair[1])
    gan = (LeadGANModule if piecewise else Dual)(
        *(network.double() for network in pair),
        game=LEADStrategy(0.7, form=form, play=play),
        optimizer=torch.optim.SGD,
        generator_lr=1e-2,
        discriminator_lr=1e-2,
        **settings,
    )
    real = torch.randn(36, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.manual_seed(2)
    tiny_trainer(3).fit(gan, torch.utils.data.DataLoader(real, 12))
    assert gan._structure.chained
    assert gan._structure.piecewise_linear is piecewise
    return gan.state_dict()


@pytest.mark.parametrize("form", ["opponent", "own"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": True, "generator_batch_size": 20},
        {"play": "simultaneous", "objective": "hinge"},
        {"discriminator_steps": 3, "objective": "wasserstein"},
        {"accumulate": 2},
    ],
    ids=str,
)
def test_training_is_the_same_either_way(form, settings):
    fast, dual = (trained(piecewise=piecewise, form=form, **settings) for piecewise in (True, False))
    assert max(float((fast[key] - dual[key]).abs().max()) for key in dual) < 1e-12


def test_it_is_used_and_said(caplog):
    with caplog.at_level(logging.DEBUG, logger="lightning_lead.gan"):
        trained(piecewise=True)
    assert "Discriminator: piecewise linear" in caplog.text

"""Each module against the same algorithm written by hand, and what it refuses."""

from __future__ import annotations

import copy
import math

import domain_kit as kit
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import DataLoader

from lightning_lead import (
    ConfigurationError,
    DANNModule,
    ERMModule,
    GroupDROModule,
    IRMGamesModule,
    IRMv1Module,
    LinearSEMDataModule,
)
from lightning_lead.domains._losses import predicted_classes, sample_losses
from lightning_lead.domains.irm import scale_derivatives
from lightning_lead.engine.named_rules import find_game, game_names

STEPS = 20


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits.squeeze(1), labels.double())


# ---- DANN -----------------------------------------------------------------------------------------------------------


def by_hand(module: DANNModule, steps: int, *, weight: float) -> Tensor:
    """Alternating play of a copy in a loop: features and classifier, then the discriminator."""
    net = copy.deepcopy(module)
    first = torch.optim.SGD([*net.features.parameters(), *net.classifier.parameters()], lr=0.1, momentum=0.5)
    second = torch.optim.SGD(net.discriminator.parameters(), lr=0.1, momentum=0.5)
    stream = kit.batches(12, target=1)
    for _ in range(steps):
        inputs, labels, groups = next(stream)
        known = labels >= 0
        features = net.features(inputs)
        confusion = bce(net.discriminator(features), groups)
        loss = bce(net.classifier(features[known]), labels[known]) - weight * confusion
        first.zero_grad()
        loss.backward()
        first.step()
        second.zero_grad()
        bce(net.discriminator(net.features(inputs).detach()), groups).backward()
        second.step()
    return kit.weights(net)


def test_plain_play_of_dann_is_the_loop() -> None:
    module = kit.dann(game="AlternatingGDA", weight=0.7)
    expected = by_hand(module, STEPS, weight=0.7)
    start = kit.weights(module)
    kit.trainer(STEPS).fit(module, kit.loader(12, target=1))
    # the mean over labelled samples is a sum over all divided by their number: another order of additions
    torch.testing.assert_close(kit.weights(module), expected, rtol=0, atol=1e-12)
    assert (expected - start).abs().max() > 0.01
    assert (expected - by_hand(kit.dann(), STEPS, weight=0.6)).abs().max() > 1e-6  # the control: another weight


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.weight * grad, None


def test_a_gradient_reversal_layer_has_the_same_plain_gradients() -> None:
    module = kit.dann(weight=0.7)
    batch = next(kit.batches(12, target=1))
    inputs, labels, groups = batch
    features, known = module.features(inputs), labels >= 0
    reversed_ = module.discriminator(_Reversal.apply(features, 0.7))
    (bce(module.classifier(features[known]), labels[known]) + bce(reversed_, groups)).backward()
    losses, players = module.player_losses(batch), module.players()
    for name, parameters in players.items():
        own = list(parameters)
        for parameter, grad in zip(own, torch.autograd.grad(losses[name], own, retain_graph=True), strict=True):
            torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", ["opponent", "own"])
def test_the_part_in_which_the_players_meet_has_the_whole_cross_term(form: str) -> None:
    class Whole(DANNModule):
        def wanted_losses(self, batch, wanted):
            return {name: loss for name, loss in super().wanted_losses(batch, wanted).items() if "/" not in name}

    ends = []
    for cls, coupling in ((DANNModule, 1.0), (Whole, 1.0), (DANNModule, 0.0)):
        networks = kit.network(6), kit.network(1, seed=1, inputs=6), kit.network(1, seed=2, inputs=6)
        game = f"LEAD(coupling={coupling}, form={form!r})"
        module = cls(*networks, game=game, optimizer=torch.optim.SGD, learning_rates=0.3)
        kit.trainer(STEPS).fit(module, kit.loader(12, target=1))
        ends.append(kit.weights(module))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)
    assert (ends[0] - ends[2]).abs().max() > 1e-4  # the control: the term does something


@pytest.mark.parametrize("width", [1, 2, 3])
def test_dann_takes_a_logit_per_domain_or_one_for_two(width: int) -> None:
    module = DANNModule(
        kit.network(6), kit.network(2, inputs=6), kit.network(width, inputs=6), num_domains=max(width, 2)
    )
    inputs, labels, groups = kit.samples(12, groups=max(width, 2)).tensors
    found = module.player_losses((inputs, labels, groups))
    logits = module.discriminator(module.features(inputs))
    expected = bce(logits, groups) if width == 1 else cross_entropy(logits, groups)
    torch.testing.assert_close(found["domains"], expected)
    own = cross_entropy(module(inputs), labels)
    torch.testing.assert_close(found["features"], own - expected)


def test_a_discriminator_of_another_number_of_domains_is_refused() -> None:
    module = DANNModule(kit.network(6), kit.network(2, inputs=6), kit.network(1, inputs=6), num_domains=3)
    with pytest.raises(ConfigurationError, match=r"3 domains apart.*3 logits.*got shape \(12, 1\)"):
        kit.trainer(1).fit(module, kit.loader(12, groups=3))


def test_the_weight_grows_with_the_game_steps_and_is_logged() -> None:
    seen = []

    class Watched(DANNModule):
        def on_game_step_end(self, batch):
            seen.append(self.trainer.callback_metrics["adversarial_weight"].item())

    networks = kit.network(6), kit.network(1, inputs=6), kit.network(1, inputs=6)
    module = Watched(*networks, weight=0.5, schedule_steps=10, game="AlternatingGDA")
    kit.trainer(4).fit(module, kit.loader(12, target=1))
    expected = [0.5 * (2 / (1 + math.exp(-10 * t / 10)) - 1) for t in range(4)]
    assert seen == pytest.approx(expected, rel=1e-6)  # logged in float32


# ---- group DRO ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
def test_group_dro_is_algorithm_1(missing: bool) -> None:
    module = kit.group_dro()
    net, q = copy.deepcopy(module.network), torch.full((2,), 0.5, dtype=torch.float64)
    data = kit.samples().tensors
    if missing:  # every other batch is of one group alone
        inputs, labels, groups = data
        order = torch.cat([torch.arange(48), torch.arange(48, 96, 2), torch.arange(49, 96, 2)])
        data = inputs[order], labels[order], groups[order]
    batches = [tuple(part[k : k + 12] for part in data) for k in range(0, 96, 12)]
    path: list[Tensor] = []

    class Watched(GroupDROModule):
        def on_game_step_end(self, batch):
            path.append(self.group_weights.detach().clone())

    watched = Watched(module.network, 2, step=0.3, learning_rate=0.1)
    kit.trainer(STEPS).fit(watched, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), 12))
    for t in range(STEPS):
        inputs, labels, groups = batches[t % len(batches)]

        def losses(inputs: Tensor = inputs, labels: Tensor = labels, groups: Tensor = groups) -> Tensor:
            each = binary_cross_entropy_with_logits(net(inputs).squeeze(1), labels.double(), reduction="none")
            means = [each[groups == g].mean() if (groups == g).any() else each.sum() * 0 for g in range(2)]
            return torch.stack(means)

        q = q * torch.exp(0.3 * losses().detach())
        q = q / q.sum()
        grads = torch.autograd.grad((q * losses()).sum(), [*net.parameters()])
        with torch.no_grad():
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter -= 0.1 * grad
        torch.testing.assert_close(path[t], q, rtol=0, atol=1e-10)
        assert path[t].min() > 0
        assert path[t].sum().item() == pytest.approx(1.0, abs=1e-14)
    torch.testing.assert_close(kit.weights(watched.network), kit.weights(net), rtol=0, atol=1e-10)
    assert (q - 0.5).abs().max() > 1e-3  # something has happened


# ---- IRM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "outputs"), [("classification", 1), ("classification", 3), ("squared", 1)])
def test_the_derivative_by_the_scale_is_that_of_double_backward(kind: str, outputs: int) -> None:
    net = kit.network(outputs)
    inputs, labels, _ = kit.samples(24).tensors
    labels = labels.double() if kind == "squared" else labels
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    mean = sample_losses(scale * net(inputs), labels, kind).mean()
    (slope,) = torch.autograd.grad(mean, scale, create_graph=True)
    expected = torch.autograd.grad(slope**2, [*net.parameters()])
    ours = scale_derivatives(net(inputs), labels, kind).mean()
    torch.testing.assert_close(ours, slope, rtol=0, atol=1e-14)
    for a, b in zip(torch.autograd.grad(ours**2, [*net.parameters()]), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_irm_is_the_authors_loop() -> None:
    module = kit.irm(l2=0.01)
    net = copy.deepcopy(module.network)
    sgd, stream = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5), kit.batches(12)
    for t in range(STEPS):
        inputs, labels, groups = next(stream)
        scale, weight = torch.ones((), dtype=torch.float64, requires_grad=True), 20.0 if t >= 3 else 1.0
        risks = [bce(net(inputs[groups == e]) * scale, labels[groups == e]) for e in range(2)]
        penalties = [torch.autograd.grad(risk, scale, create_graph=True)[0] ** 2 for risk in risks]
        norm = sum(p.square().sum() for p in net.parameters())
        loss = (sum(risks) / 2 + 0.01 * norm + weight * sum(penalties) / 2) / max(1.0, weight)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    kit.trainer(STEPS).fit(module, kit.loader(12))
    torch.testing.assert_close(kit.weights(module), kit.weights(net), rtol=0, atol=1e-12)


def test_erm_is_plain_descent() -> None:
    module = kit.erm()
    net = copy.deepcopy(module.network)
    sgd, stream = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5), kit.batches(12)
    for _ in range(STEPS):
        inputs, labels, _ = next(stream)
        sgd.zero_grad()
        (bce(net(inputs), labels) + 0.01 * sum(p.square().sum() for p in net.parameters())).backward()
        sgd.step()
    kit.trainer(STEPS).fit(module, kit.loader(12))
    torch.testing.assert_close(kit.weights(module), kit.weights(net), rtol=0, atol=1e-12)


# ---- IRM games ------------------------------------------------------------------------------------------------------


def linear_game(
    environments: tuple[float, ...], *, bound: float | None, steps: int = 250, **settings
) -> IRMGamesModule:
    data = LinearSEMDataModule(
        model="confounded", environments=environments, test=-3.0, exact=True, dim=2, num_samples=50, seed=4
    )
    networks = [nn.Linear(4, 1, bias=False) for _ in environments]
    for network in networks:
        nn.init.uniform_(network.weight, -0.5, 0.5)
    sgd = lambda groups: torch.optim.SGD(groups, momentum=0.0)  # noqa: E731
    module = IRMGamesModule(networks, bound=bound, loss="squared", optimizer=sgd, learning_rates=0.2, **settings)
    module.data = data
    kit.trainer(steps).fit(module, datamodule=data)
    return module


def ensemble(module: IRMGamesModule) -> Tensor:
    return module(torch.eye(4)).detach().squeeze(1).double()


@pytest.mark.parametrize("game", ["AlternatingGDA", "SimultaneousGDA", "LEAD(coupling=0.5, cross='extrapolated')"])
def test_the_equilibrium_of_two_bounded_players_is_the_invariant_predictor(game: str) -> None:
    module = linear_game((1.0, -0.5), bound=3.0, game=game)
    torch.testing.assert_close(ensemble(module), module.data.invariant, rtol=0, atol=1e-3)
    spurious = [network.weight.detach()[0, 2:].abs() for network in module.networks]
    assert all(bool((each == 3.0).all()) for each in spurious)  # at opposite ends of the box


def test_where_signs_agree_the_smaller_of_both_is_kept() -> None:
    module = linear_game((1.0, 0.3), bound=3.0)
    samples = [part for name, part in module.data.samples().items() if name != module.data.held_out]
    solved = torch.stack([torch.linalg.lstsq(x.double(), y.double()).solution for x, y in samples])
    smaller = solved.gather(0, solved.abs().argmin(0, keepdim=True))[0]
    torch.testing.assert_close(ensemble(module), smaller, rtol=0, atol=1e-3)
    assert smaller[2:].min() > 0.1  # the control: theory does not promise the invariant predictor here


def test_three_environments_are_three_players() -> None:
    module = linear_game((1.0, -0.5, 0.7), bound=3.0)
    assert list(module.players()) == ["environment0", "environment1", "environment2"]
    torch.testing.assert_close(ensemble(module)[:2], module.data.invariant[:2], rtol=0, atol=1e-3)


# ---- every rule, and what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", kit.MODULES)
@pytest.mark.parametrize("rule", game_names())
def test_every_rule_trains_or_refuses_with_a_reason(rule: str, name: str) -> None:
    adaptive = find_game(rule).rule.needs.requires_sgd
    module = kit.MODULES[name](game=rule, **({} if name == "group DRO" or not adaptive else {"optimizer": None}))
    before, message = kit.weights(module), ""
    try:
        kit.trainer(2).fit(module, kit.loader(12, target=kit.target_of(name)))
    except ConfigurationError as error:
        message = str(error)
    after = kit.weights(module)
    assert bool(message) == torch.equal(before, after) == refused(rule, name)
    assert message.startswith("Cannot") or not message
    assert torch.isfinite(after).all()


def refused(rule: str, name: str) -> bool:
    """Rules that look at an opponent where there is none, and those that are not at rest on the edge of the simplex."""
    needs = find_game(rule).rule.needs
    return needs.unconstrained if name == "group DRO" else needs.uses_opponent and name in ("ERM", "IRMv1")


class _Loader(torch.utils.data.DataLoader):
    """One batch as it is."""

    def __init__(self, batch):
        super().__init__([batch], batch_size=None)


X, Y, G = kit.samples(12).tensors


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, Y), r"which domain each sample is of.*no groups.*got two parts"),
        (X, r"Cannot read the batch.*three tensors"),
        ((X, Y[:5], G), r"Cannot read the batch.*got \[\(12, 4\), \(5,\), \(12,\)\]"),
        ((X, Y, G + 1), r"groups because each is one of 0 to 1.*got 1 to 2"),
        ((X, Y, G - 1), r"groups because each is one of 0 to 1.*got -1 to 0"),
        ((X, Y, G.double()), r"groups.*int64.*float64"),
        ((X, Y - 2, G), r"labels because each.*got -2 to -1"),
        ((X, torch.full_like(Y, -1), G), r"labels because.*got -1 to -1"),
        ((X, Y.double(), G), r"labels because they number the classes.*float64"),
    ],
)
@pytest.mark.parametrize("name", kit.MODULES)
def test_a_batch_of_another_form_is_refused_before_a_weight_moves(name: str, batch, message: str) -> None:
    module = kit.MODULES[name](game="AlternatingGDA")
    before = kit.weights(module)
    with pytest.raises(ConfigurationError, match=message):
        kit.trainer(1).fit(module, _Loader(batch))
    assert torch.equal(kit.weights(module), before)


@pytest.mark.parametrize("name", [name for name in kit.MODULES if name != "DANN"])
def test_a_missing_label_is_refused_where_it_has_no_meaning(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"labels because each sample needs one.*got -1 to 1"):
        kit.trainer(1).fit(kit.MODULES[name](), kit.loader(12, target=1))


def test_one_environment_alone_is_refused() -> None:
    net = kit.network()
    for build in (
        lambda: GroupDROModule(net, 1),
        lambda: IRMGamesModule([net]),
        lambda: IRMv1Module(net, num_environments=1),
        lambda: ERMModule(net, num_groups=1),
        lambda: DANNModule(net, net, net, num_domains=1),
    ):
        with pytest.raises(ConfigurationError, match=r"one environment alone does not show what varies.*got 1\)"):
            build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda net: ERMModule(net, loss="hinge"), "loss must be 'classification' or 'squared'"),
        (lambda net: ERMModule(net, l2=-1.0), "l2"),
        (lambda net: GroupDROModule(net, 2, step=0.0), "step must be finite and > 0"),
        (lambda net: IRMv1Module(net, penalty=-1.0), "penalty"),
        (lambda net: IRMv1Module(net, anneal_steps=-1), "anneal_steps"),
        (lambda net: IRMGamesModule([net, net]), "belongs to several environments"),
        (lambda net: IRMGamesModule([net, kit.network()], bound=-1.0), "Cannot use bound"),
        (lambda net: DANNModule(net, net, net, weight=-1.0), "weight"),
        (lambda net: DANNModule(net, net, net, schedule_steps=0), "schedule_steps"),
    ],
)
def test_settings_out_of_range_are_refused(build, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(kit.network())


def test_outputs_that_do_not_fit_are_refused() -> None:
    for net, loss, message in (
        (kit.network(2), "squared", r"one number per sample.*got \(12, 2\)"),
        (nn.Unflatten(1, (2, 2)), "classification", r"not one row per sample.*got \(12, 2, 2\)"),
    ):
        labels = Y.double() if loss == "squared" else Y
        with pytest.raises(ConfigurationError, match=message):
            ERMModule(net, loss=loss).player_losses((X, labels, G))
    with pytest.raises(ConfigurationError, match="squared error of classes"):
        kit.trainer(1).fit(kit.erm(loss="squared"), kit.loader(12))


@pytest.mark.parametrize("name", ["DANN", "group DRO", "IRM games", "ERM"])
def test_micro_batches_with_other_shares_of_the_groups_are_the_batch(name: str) -> None:
    """The first half of each batch has three quarters of a group, so means over the halves are not those of it."""

    def trained(accumulate: int) -> torch.Tensor:
        module = kit.MODULES[name](accumulate=accumulate)
        data = kit.samples(target=kit.target_of(name))
        rows = torch.arange(len(data)).view(-1, 24)
        first, second = rows[:, ::2], rows[:, 1::2]
        order = torch.cat([first[:, :9], second[:, :3], first[:, 9:], second[:, 3:]], dim=1)
        kit.trainer(4).fit(module, DataLoader(torch.utils.data.Subset(data, order.flatten().tolist()), 24))
        assert module._counts is None
        return kit.weights(module)

    # sums in another order
    torch.testing.assert_close(trained(2), trained(1), rtol=0, atol=1e-12)


def test_logged_losses_of_groups_are_those_of_the_whole_batch() -> None:
    """Of micro-batches the first has one group alone."""
    inputs, labels, numbers = kit.samples(24).tensors
    order = numbers.argsort(stable=True)
    data = torch.utils.data.TensorDataset(inputs[order], labels[order], numbers[order])
    seen = []
    for accumulate in (1, 2, 4):
        module = kit.group_dro(accumulate=accumulate)
        trainer = kit.trainer(1, log_every_n_steps=1)
        trainer.fit(module, DataLoader(data, 24))
        seen.append([trainer.callback_metrics[f"group_loss/{k}"].item() for k in range(2)])
        assert module._group_losses is None
    losses = sample_losses(kit.network()(inputs), labels, "classification")
    expected = [losses[numbers == k].mean().item() for k in range(2)]
    for found in seen:
        assert found == pytest.approx(expected, rel=1e-6)  # logged in float32


def test_a_network_of_nan_is_right_of_nothing() -> None:
    for outputs in (torch.full((4, 1), math.nan), torch.full((4, 3), math.nan), torch.full((4,), math.nan)):
        assert predicted_classes(outputs).tolist() == [-1] * 4
    assert predicted_classes(torch.tensor([[-1.0], [2.0]])).tolist() == [0, 1]

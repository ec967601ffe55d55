"""What every rule owes its users; it gets all of this by being exported, or by `--rule FILE`."""

from __future__ import annotations

import copy
import inspect
import io
import os
import pkgutil
import warnings
from importlib import import_module
from pathlib import Path

import processes
import pytest
import torch
from dense_game import TwistedGame
from linear_rate import leading_radius
from on_ranks import fitted, weights
from rules_under_test import FILES, is_iterative, label, rules_under_test, twin_of
from tiny import tiny_gan, tiny_loader, tiny_trainer
from torch.utils.data import DataLoader

from lightning_lead import ConfigurationError, GameStrategy, LeadGANModule, rules
from lightning_lead._checks import is_class
from lightning_lead.analysis import Match, simulate, update_operator
from lightning_lead.games import BilinearGame, DiracGAN, QuadraticGame
from lightning_lead.networks import DCGANDiscriminator, DCGANGenerator
from lightning_lead.rules import AbstractGameRule

RULES = rules_under_test()
every_rule = pytest.mark.parametrize("rule", RULES, ids=label)
pytestmark = pytest.mark.filterwarnings("ignore:.*relative residual.*:UserWarning")  # a random GAN may be hard to solve


def flat(match: Match) -> torch.Tensor:
    return torch.cat([p.reshape(-1) for vector in match.point.values() for p in vector])


# ---- on games that know their answer --------------------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize("game", [QuadraticGame([[2.0, 1.0]], curvature=0.5), BilinearGame([[1.0]]), DiracGAN()])
def test_the_equilibrium_is_a_fixed_point_and_a_zero_field_gives_a_zero_direction(rule, game):
    for play in rule.plays:
        match = Match(rule, game, lr=0.1, play=play, start=game.equilibrium())
        for _ in range(2 * rule.period + 2):
            match.step()
        assert match.distance == 0.0


@every_rule
def test_evaluations_are_counted_as_declared(rule):
    """The declared cost is what the oracle was asked for; and what it was asked for, the losses were evaluated for."""
    game, looked = TwistedGame(zero_sum=rule.needs.zero_sum), 0
    losses = game.losses

    def counted(point):
        nonlocal looked
        looked += 1
        return losses(point)

    match = Match(rule, game, lr=0.05)
    for _ in range(rule.period + 1):
        match.step()
    match.evaluations.clear()
    game.losses = counted
    for _ in range(4):
        match.step()
    asked = {key: match.evaluations[key] / 4 for key in ("gradients", "hessian_products")}
    if rule.cost is None:
        assert asked["gradients"] >= 2
    else:
        assert asked == {"gradients": rule.cost.gradients, "hessian_products": rule.cost.hessian_products}
    assert 4 * asked["gradients"] <= looked <= 4 * (asked["gradients"] + asked["hessian_products"])


@every_rule
def test_float32_follows_float64(rule):
    ends = []
    for dtype in (torch.float64, torch.float32):
        game = TwistedGame(zero_sum=rule.needs.zero_sum, dtype=dtype)
        match = Match(rule, game, lr=0.05, start=game.point([0.5, -1.0], [1.0, 0.3, -0.6]))
        for _ in range(10):
            match.step()
        assert flat(match).dtype == dtype
        ends.append(flat(match).double())
    assert (ends[0] - ends[1]).abs().max() < 1e-4  # ten steps of single-precision rounding


@every_rule
def test_ten_steps_equal_those_of_a_hand_written_twin(rule):
    twin = twin_of(rule)
    assert twin is not None, f"write {type(rule).__name__}'s equations out in tests/contract/twins.py"
    game = TwistedGame(zero_sum=rule.needs.zero_sum)
    start = game.point([0.5, -1.0], [1.0, 0.3, -0.6])
    expected = twin(rule, game, start["x"][0], start["y"][0], 0.05, 10)
    path = simulate(rule, game, lr=0.05, steps=10, start=start)
    for here, (x, y) in zip(path.points[1:], expected, strict=True):
        assert (here - torch.cat([x, y])).abs().max() < (1e-10 if is_iterative(rule) else 1e-13)


@every_rule
def test_the_state_is_neither_changed_in_place_nor_an_alias_and_loads_with_weights_only(rule, monkeypatch):
    handed, direction = {}, rule.direction

    def recorded(*arguments):
        directions, state = direction(*arguments)
        handed.update(directions)
        return directions, state

    monkeypatch.setattr(rule, "direction", recorded)
    match = Match(rule, TwistedGame(zero_sum=rule.needs.zero_sum), lr=0.05)
    for _ in range(2 * rule.period):
        before, kept = match.state, copy.deepcopy(match.state)
        match.step()
        assert same(before, kept)
    live = {p.data_ptr() for params in match.parameters.values() for p in params}
    assert not live & {t.data_ptr() for t in tensors(match.state)}
    # clips and optimizers work on directions in place: torch's SGD with foreach and Nesterov's momentum does
    directions = {t.untyped_storage().data_ptr() for t in tensors(handed)}
    assert directions
    assert not directions & {t.untyped_storage().data_ptr() for t in tensors(match.state)}
    file = io.BytesIO()
    torch.save(match.state, file)
    file.seek(0)
    assert same(torch.load(file, weights_only=True), match.state)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [t for item in items for t in tensors(item)]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.affine], ids=label)
def test_the_simulated_rate_is_the_spectral_radius(rule):
    """One pair of singular vectors, so that one pair of eigenvalues leads; points are those after whole periods.

    A game for each order of play, and both games where there is one order.
    """
    for k, (h, sigma) in enumerate(((0.6, 1.1), (0.2, 0.5))):
        game, play = QuadraticGame([[sigma]], curvature=h), rule.plays[k % len(rule.plays)]
        operator = update_operator(rule, game, lr=0.2, play=play)
        sizes = operator.eigenvalues.abs().sort(descending=True).values
        slow = float(sizes[2:].sum() / sizes[0]) ** (30 / rule.period) > 1e-5  # a memory that has not died away by then
        path = simulate(rule, game, lr=0.2, steps=120 if slow else 30, play=play)
        found = leading_radius(path.points[:: rule.period]) ** (1 / rule.period)
        assert abs(found - operator.radius) < 1e-5, (play, h)


@every_rule
def test_an_order_of_play_that_it_is_not_defined_for_is_refused(rule):
    for play in ("alternating", "simultaneous"):
        if play in rule.plays:
            assert GameStrategy(rule, play=play).play == play
        else:
            reason = "moves together, from one point" if play == "alternating" else "from the other one's new position"
            with pytest.raises(ConfigurationError, match=f"{type(rule).__name__}.*{play}.*{reason}"):
                GameStrategy(rule, play=play)
    assert GameStrategy(rule).play == rule.plays[0]


# ---- in a trainer ---------------------------------------------------------------------------------------------------


def objective_for(rule):
    return "minimax" if rule.needs.zero_sum else "non_saturating"


@every_rule
def test_it_trains_an_image_gan_and_buffers_move_once_per_forward(rule):
    generator = DCGANGenerator(latent_dim=4, channels=1, image_size=8, width=4)
    gan = LeadGANModule(
        generator,
        DCGANDiscriminator(channels=1, image_size=8, width=4),
        game=rule,
        objective=objective_for(rule),
        generator_lr=1e-3,
        discriminator_lr=1e-3,
    )
    before = weights(gan)
    torch.manual_seed(0)
    steps = 2 if rule.period == 1 else 3  # lookahead goes back in the third
    trainer = tiny_trainer(steps)
    trainer.fit(gan, DataLoader(torch.rand(24, 1, 8, 8) * 2 - 1, 8))
    assert trainer.global_step == steps
    assert torch.isfinite(weights(gan)).all()
    assert gan.game.skipped == 0
    assert (weights(gan) - before).abs().max() > 1e-5
    # alternating: fakes for the discriminator and for the generator; simultaneous: for both at once, or for each
    counts = {int(m.num_batches_tracked) for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert counts <= ({2 * steps} if gan.game.play == "alternating" else {steps, 2 * steps})


@every_rule
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(rule, tmp_path):
    middle = 2 if rule.period == 1 else 4  # within a period, which ends before the run does

    def run(ckpt=None):
        gan, trainer = tiny_gan(game=rule, objective=objective_for(rule)), tiny_trainer(middle + 2)
        if ckpt is None:
            save = lambda *_: trainer.save_checkpoint(tmp_path / "mid.ckpt") if trainer.global_step == middle else None  # noqa: E731
            gan.on_train_batch_end = save
        torch.manual_seed(3 if ckpt is None else 4)
        # both epochs are alike, so that it does not matter that a plain loader begins anew
        trainer.fit(gan, tiny_loader(24, count=24), ckpt_path=ckpt)
        return weights(gan)

    whole, resumed = run(), run(tmp_path / "mid.ckpt")
    assert torch.equal(whole, resumed)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    output = tmp_path / "result"
    processes.run_ranks(2, [Path(__file__).with_name("on_ranks.py"), output], timeout=300)
    results = [torch.load(f"{output}.{rank}", weights_only=True) for rank in range(2)]
    for number, rule in enumerate(RULES):
        for play in rule.plays:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                alone = weights(fitted(rule, play, world_size=1, rank=0))
            # a solve that ends by its tolerance ends there in one process as in two, up to that tolerance
            limit = 1e-10 if is_iterative(rule) else 1e-12
            for result in results:
                assert (result["weights"][f"{number} {play}"] - alone).abs().max() < limit, (label(rule), play)
    control = results[0]["weights"]["unreduced"]
    assert (control - weights(fitted(RULES[0], RULES[0].plays[0], world_size=1, rank=0))).abs().max() > 1e-5


# ---- the contract itself --------------------------------------------------------------------------------------------


def exported():
    """Every rule that `lightning_lead.rules` exports, by name."""
    found = {name: getattr(rules, name) for name in rules.__all__}
    found = {name: value for name, value in found.items() if is_class(value)}
    return {n: c for n, c in found.items() if issubclass(c, AbstractGameRule) and not inspect.isabstract(c)}


def test_every_rule_is_exported_and_every_exported_rule_is_a_contestant():
    modules = [import_module(f"{rules.__name__}.{found.name}") for found in pkgutil.iter_modules(rules.__path__)]
    own = [value for module in modules for value in vars(module).values() if is_class(value)]
    own = {c for c in own if issubclass(c, AbstractGameRule) and not inspect.isabstract(c)}
    assert own == set(exported().values())
    if not os.environ.get(FILES):  # with --rule only the files' rules contest
        assert {type(rule) for rule in RULES} == own


def test_only_a_rule_s_first_hyperparameter_may_be_given_by_position():
    for name, rule in exported().items():
        positional = [p for p in inspect.signature(rule).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        assert len(positional) <= 1, name

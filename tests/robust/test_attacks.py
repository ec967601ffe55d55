"""Attacks stay in their bounds, every rule plays them or says why not, and resumed runs are the uninterrupted ones."""

from __future__ import annotations

import copy

import pytest
import robust_kit as kit
import torch
from bitwise import differing
from pytorch_lightning import Callback
from torch import nn

from lightning_lead import ConfigurationError, LEADStrategy
from lightning_lead.data import ResumableDataLoader
from lightning_lead.engine.named_rules import find_game, game_names
from lightning_lead.robust import (
    CrossEntropy,
    FGSMAttack,
    FreeAttack,
    Patch,
    PerturbationNetwork,
    PGDAttack,
    SignDescent,
    UniversalPerturbation,
    robust_loss,
)

KINDS = list(kit.ATTACKS)


def game_of(kind, name):
    """The game in the play that the attack needs, or None if the rule has not got it."""
    game = find_game(name)
    needed = "simultaneous" if kind == "free" else "alternating"
    if kind in ("free", "pgd", "pgd l2", "fgsm") and game.play != needed:
        if needed not in game.rule.plays or name.endswith("GDA"):
            return None
        game = find_game(name[:-1] + f", play={needed!r})" if name.endswith(")") else f"{name}(play={needed!r})")
    return game


# ---- bounds ----------------------------------------------------------------------------------------------------------


def watched(net, epsilon, norm):
    """The network, and the largest perturbation in each of the batches that reach it."""
    clean, sizes = kit.data()[0], []

    def look(_, args):
        seen = args[0].detach()
        assert seen.min() >= -1e-12
        assert seen.max() <= 1 + 1e-12
        gaps = seen[:, None] - clean[None]
        size = gaps.abs().flatten(2).amax(2) if norm == "linf" else gaps.flatten(2).norm(dim=2)
        sizes.append(float(size.amin(1).max()))

    net.register_forward_pre_hook(look)
    return net, sizes


@pytest.mark.parametrize(
    "game", ["plain", "LEAD(coupling=3.0, form='own')", "LEAD(coupling=3.0, cross='extrapolated')"]
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "patch"])
def test_no_loss_meets_an_image_outside_of_ball_and_range(kind, game):
    attack = kit.ATTACKS[kind]()
    norm = getattr(attack, "norm", "linf")
    net, sizes = watched(kit.network(), attack.epsilon, norm)
    chosen = None if game == "plain" else game_of(kind, game)
    made = kit.module(attack, net=net, game=chosen)
    kit.fit(made)
    assert max(sizes) <= attack.epsilon * (1 + 1e-9)
    assert max(sizes) > 0.1 * attack.epsilon
    bounds = made.constraints().get("attack")
    for parameter in made.attack.parameters() if bounds is not None else ():
        assert torch.equal(bounds.project(parameter.detach()), parameter.detach())


def test_a_patch_stays_in_the_range_and_covers_its_square_alone():
    made = kit.module("patch")
    kit.fit(made)
    pixels, images = made.attack.pixels.detach(), kit.data()[0][:20]
    assert 0 <= pixels.min() <= pixels.max() <= 1
    changed = made.attack(images, None, kit.RANGE) != images
    assert changed.sum((1, 2, 3)).max() <= 4
    tops = {int(rows.nonzero()[0, 1]) for rows in changed if rows.any()}
    assert tops == {0, 1, 2}


def test_sign_descent_moves_by_its_length_in_either_norm():
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    for settings, expected in (
        ({"norm": "linf"}, [[-0.1, 0.1], [0.0, 0.0]]),
        ({"norm": "l2", "per_sample": True}, [[-0.06, 0.08], [0.0, 0.0]]),
        ({"norm": "l2"}, [[-0.06, 0.08], [0.0, 0.0]]),
    ):
        parameter = nn.Parameter(torch.zeros(2, 2))
        parameter.grad = gradient.clone()
        assert SignDescent([parameter], lr=0.1, **settings).step(lambda: 3.0) == 3.0
        torch.testing.assert_close(parameter.detach(), torch.tensor(expected))


# ---- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", game_names())
@pytest.mark.filterwarnings("ignore:.*relative residual.*:UserWarning")
def test_every_rule_plays_every_attack_or_says_why_not(name):
    played = 0
    for kind in KINDS:
        game = game_of(kind, name)
        made_of = {"net": kit.network(batch_norm=False), "learning_rate": 0.02}
        if game is None:
            with pytest.raises(ConfigurationError, match=r"in (alternating|simultaneous) play because"):
                kit.module(kind, game=name, **made_of)
            continue
        if game.rule.needs.requires_sgd and kind != "network":
            with pytest.raises(ConfigurationError, match="moves every player by plain SGD"):
                kit.module(kind, game=game, **made_of)
            continue
        made = kit.module(kind, game=game, **made_of)
        before = copy.deepcopy(made.network)
        try:
            kit.fit(made, steps=2)
        except ConfigurationError as error:
            assert "Cannot play" in str(error)  # noqa: PT017
            assert made.global_step == 0
            continue
        played += 1
        assert kit.furthest(before, made.network) > 0
        assert all(torch.isfinite(p).all() for p in made.parameters())
    assert played, name


def test_lead_sees_the_whole_way_of_a_perturbation_on_its_batch_and_nothing_of_the_last_one():
    """Extrapolated, the network's loss is at δ + a·(δ − start); with three steps of 0.05 that is 0.15 away."""
    attack = PGDAttack(10.0, step_size=0.05, steps=3, random_start=False)
    seen, net = [], kit.network(batch_norm=False)
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    made = kit.module(attack, net=net, value_range=(-20.0, 20.0), game=LEADStrategy(2.0, cross="extrapolated"))
    kit.fit(made, steps=2)
    for step, (x, _) in zip(range(2), kit.loader(), strict=False):
        looks = [look - x for look in seen[4 * step : 4 * step + 4]]
        assert looks[0].abs().max() == 0
        assert [float(look.abs().max()) for look in looks[1:3]] == pytest.approx([0.05, 0.10])
        delta = made.attack.delta.detach() if step else None
        if delta is not None:
            torch.testing.assert_close(looks[3], 3 * delta)  # δ + 2·(δ − 0)


def test_a_cross_term_through_batch_norms_in_two_modes_is_told():
    with pytest.warns(UserWarning, match=r"in eval mode.*form='own', or attack_mode='train'"):
        kit.fit(kit.module("fgsm", game="LEAD"), steps=1)
    for settings in ({"game": "LEAD(form='own')"}, {"game": "LEAD", "attack_mode": "train"}, {}):
        kit.fit(kit.module("fgsm", **settings), steps=1)


# ---- resume ----------------------------------------------------------------------------------------------------------

GAMES = ["plain", "LEAD(coupling=0.7, form='own')", "LEAD(coupling=0.7, cross='extrapolated')"]


class Save(Callback):
    """Saves in the middle of game step 3, before a player moves, and behind step 2."""

    def __init__(self, folder):
        self.folder, self.turn = folder, 0

    def on_train_start(self, trainer, pl_module):
        def look(player):
            self.turn += 1
            if trainer.global_step == 2:
                trainer.save_checkpoint(self.folder / f"turn{self.turn}.ckpt")

        pl_module.on_before_player_step = look

    def on_train_batch_end(self, trainer, *_):
        self.turn = 0
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.folder / "step.ckpt")


def feed():
    return ResumableDataLoader(torch.utils.data.TensorDataset(*kit.data(44)), 8, seed=3)


def made_for(kind, game):
    chosen = None if game == "plain" else game_of(kind, game)
    schedule = lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)  # noqa: E731
    return kit.module(kind, game=chosen, scheduler=schedule, accumulate=2 if kind == "pgd" else 1)


def ends(made, trainer):
    return {
        "weights": made.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "game": made.game.state_dict(),
        "turns": dict(made._turns_played),
    }


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one(kind, game, tmp_path):
    whole = made_for(kind, game)
    expected = ends(whole, kit.fit(whole, steps=4, feed=feed(), callbacks=[Save(tmp_path)]))
    saved = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert len(saved) == 1 + sum(len(players) for players in whole.attack.turns(whole.game.play))
    for name in {"step.ckpt", saved[0], saved[-2]}:
        resumed = made_for(kind, game)
        for parameter in resumed.network.parameters():
            parameter.data.mul_(0.5)
        trainer = kit.fit(resumed, steps=4, feed=feed(), ckpt_path=str(tmp_path / name))
        assert not differing(ends(resumed, trainer), expected), name
    other = made_for(kind, game)
    assert differing(ends(other, kit.fit(other, steps=4, feed=kit.loader(44, 4))), expected)  # the control


def test_a_checkpoint_of_another_batch_size_loads(tmp_path):
    made = kit.module("pgd")
    trainer = kit.fit(made, steps=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert made.attack.delta.shape == (8, 1, 4, 4)
    other = kit.module("pgd")
    trainer = kit.fit(other, steps=4, feed=kit.loader(40, 5), ckpt_path=str(tmp_path / "a.ckpt"))
    assert other.attack.delta.shape == (5, 1, 4, 4)
    fresh = kit.module("pgd")
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh.attack.delta, made.attack.delta)


def test_a_last_batch_that_is_smaller_is_attacked_as_it_is():
    made = kit.module("pgd", game="LEAD(coupling=0.5, form='own')")
    kit.fit(made, steps=6, feed=kit.loader(20, 8))
    assert made.attack.delta.shape == (4, 1, 4, 4)


def test_the_scheduler_is_the_network_s_and_an_attack_s_step_stays_as_long():
    made = kit.module("pgd", scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5))
    trainer = kit.fit(made, steps=3)
    attack, network = (optimizer.param_groups[0] for optimizer in trainer.optimizers)
    assert (attack["name"], attack["lr"]) == ("attack", made.attack.step_size)
    assert (network["name"], network["lr"]) == ("network", pytest.approx(0.05 * 0.5**3))
    made = kit.module("pgd", attack_optimizer=lambda groups: torch.optim.Adam(groups), optimizer=torch.optim.Adam)
    assert [type(each).__name__ for each in kit.fit(made, steps=1).optimizers] == ["Adam", "Adam"]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PGDAttack(-0.1), r"Cannot use epsilon.*largest size.*got -0.1"),
        (lambda: FGSMAttack(0.0), r"Cannot use epsilon.*\(0.0, inf\) \(got 0.0\)"),
        (lambda: FreeAttack(float("nan")), r"Cannot use epsilon.*got nan"),
        (lambda: PGDAttack(0.1, steps=0), r"steps because it must be an integer ≥ 1"),
        (lambda: PGDAttack(0.1, step_size=0.0), r"Cannot use step_size"),
        (lambda: FreeAttack(0.1, replays=0), r"replays because it must be an integer ≥ 1"),
        (lambda: PGDAttack(0.1, norm="l1"), r"norm must be 'linf' or 'l2' \(got 'l1'\)"),
        (lambda: UniversalPerturbation((), 0.1), r"images of the shape \(\)"),
        (lambda: UniversalPerturbation((1, 0), 0.1), r"images of the shape \(1, 0\)"),
        (lambda: UniversalPerturbation((3,), -1.0), r"Cannot use epsilon"),
        (lambda: Patch(0), r"size because it must be an integer ≥ 1"),
        (lambda: Patch(2, value_range=(1.0, 0.0)), r"value_range.*low < high"),
        (lambda: PerturbationNetwork(nn.Identity(), 0.1, step_size=-1.0), r"Cannot use step_size"),
        (lambda: CrossEntropy(label_smoothing=2.0), r"Cannot use label_smoothing"),
        (lambda: robust_loss("hinge"), r"loss 'hinge'.*cross_entropy, trades, mart"),
        (lambda: SignDescent([nn.Parameter(torch.ones(1))], lr=-1.0), r"lr must be finite and > 0"),
        (lambda: kit.module("pgd", attack_mode="evil"), r"attack_mode must be 'eval' or 'train'"),
        (lambda: kit.module("pgd", learning_rate=0.0), r"learning_rate must be finite and > 0"),
        (lambda: kit.module("pgd", value_range=(0.0, 0.0)), r"value_range"),
        (lambda: kit.module("free", game="AlternatingGDA"), r"FreeAttack in alternating play.*SimultaneousGDA"),
        (lambda: kit.module("pgd", game="SimultaneousGDA"), r"PGDAttack in simultaneous play.*one after the other"),
        (lambda: kit.module("fgsm", game="ExtraAdam"), r"FGSMAttack in simultaneous play.*FreeAttack"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.full((4, 1, 4, 4), 1.5), torch.zeros(4).long()), r"outside of their range.*1.5 to 1.5.*\(0.0, 1.0\)"),
        ((torch.full((4, 1, 4, 4), float("nan")), torch.zeros(4).long()), r"outside of their range.*nan"),
        ((torch.zeros(4, 1, 4, 4), torch.zeros(4)), r"a label, an integer, for each.*torch.float32"),
        ((torch.zeros(4, 1, 4, 4), torch.zeros(3).long()), r"a label, an integer, for each.*\(3,\)"),
        ((torch.zeros(4, 1, 4, 4).byte(), torch.zeros(4).long()), r"images of floats.*torch.uint8"),
        (torch.zeros(4, 1, 4, 4), r"images from labels.*unpack_batch.*got Tensor"),
    ],
)
def test_batches_that_cannot_be_attacked_are_refused(batch, message):
    with pytest.raises(ConfigurationError, match=message):
        kit.fit(kit.module("pgd"), steps=1, feed=torch.utils.data.DataLoader([batch], batch_size=None))


def test_attacks_of_another_shape_or_range_are_refused():
    with pytest.raises(ConfigurationError, match=r"UniversalPerturbation.*shape=\(1, 5, 5\) \(got \(1, 4, 4\)\)"):
        kit.fit(kit.module(UniversalPerturbation((1, 5, 5), 0.1)), steps=1)
    with pytest.raises(ConfigurationError, match=r"Patch.*1 channels and at least 5×5 pixels"):
        kit.fit(kit.module(Patch(5, 1, value_range=kit.RANGE)), steps=1)
    with pytest.raises(ConfigurationError, match=r"one value_range to both \(got \(-1.0, 1.0\) and \(0.0, 1.0\)\)"):
        kit.fit(kit.module(Patch(2, 1)), steps=1)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 16))
    with pytest.raises(ConfigurationError, match=r"a generator of images, not of \(16,\)"):
        kit.fit(kit.module(PerturbationNetwork(flat, 0.1)), steps=1)
    with pytest.raises(ConfigurationError, match=r"player 'attack' because it has no parameter"):
        kit.fit(kit.module(PerturbationNetwork(nn.Identity(), 0.1)), steps=1)


def test_own_losses_and_unpacked_batches_are_taken(tmp_path):
    class Named(type(kit.module("pgd"))):
        def unpack_batch(self, batch):
            return batch["x"], batch["y"]

    images, labels = kit.data()
    rows = [{"x": x, "y": y} for x, y in zip(images, labels, strict=True)]
    made = Named(kit.network(), PGDAttack(0.2, steps=2), value_range=kit.RANGE).double()
    kit.fit(made, feed=torch.utils.data.DataLoader(rows, 8))
    losses = made.player_losses({"x": images[:8], "y": labels[:8]})  # for loops of one's own
    torch.testing.assert_close(losses["attack"], -losses["network"], rtol=0.5, atol=0.5)
    assert made.predict_step({"x": images, "y": labels}, 0).shape == labels.shape

"""Games of three players and more: a cross term is a sum over opponents, and all of them are displaced at once."""

from pathlib import Path

import processes
import pytest
import torch
from host import Host
from rules_under_test import label, rules_under_test
from test_contract import exported
from tiny import tiny_loader, tiny_trainer
from trio_on_ranks import BATCH, GAMES, Trio, fitted, networks, saved_between_turns

from lightning_lead import ConfigurationError, DifferentiationError, LeadModule
from lightning_lead.engine.named_rules import game_names
from lightning_lead.rules import LEAD, ODEGAN, ExtraAdam, Extragradient, GradientPlay

RULES = rules_under_test()
SEVERAL = [rule for rule in RULES if rule.needs.plays_several or not rule.needs.uses_opponent]
SIZES = {"x": 2, "y": 3, "z": 2}


def vectors(seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=drawn, dtype=torch.float64) for name, size in SIZES.items()}


def matrix(rows, columns, seed):
    return 0.4 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


XY, XZ, YZ, ZY = matrix(2, 3, 1), matrix(2, 2, 2), matrix(3, 2, 3), matrix(2, 3, 4)


def curved(point):
    """General-sum, with third derivatives, and a product of all three."""
    x, y, z = point["x"], point["y"], point["z"]
    together = 0.3 * x.sin().sum() * y.cos().sum() * z.sum()
    return {
        "x": 0.2 * x @ x + x @ XY @ y + x @ XZ @ z + together,
        "y": 0.3 * y @ y - x @ XY @ y + y @ YZ @ z + 0.1 * together,
        "z": 0.1 * z @ z + z @ ZY @ y - 0.5 * x @ XZ @ z - together,
    }


def gradient(losses, point, of, by):
    """∇_by L_of at a point, with its graph."""
    leaves = {name: value.detach().requires_grad_() for name, value in point.items()}
    (found,) = torch.autograd.grad(losses(leaves)[of], leaves[by], create_graph=True, allow_unused=True)
    return torch.zeros_like(leaves[by]) if found is None else found, leaves


def product(losses, point, of, by, move, row):
    """∇_row ⟨∇_by L_of, move⟩."""
    field, leaves = gradient(losses, point, of, by)
    if not field.requires_grad:
        return torch.zeros_like(point[row])
    (found,) = torch.autograd.grad((field * move).sum(), leaves[row], allow_unused=True)
    return torch.zeros_like(point[row]) if found is None else found


def direction(losses, point, player, moves, a, form):
    """LEAD's direction, term by term."""
    own = gradient(losses, point, player, player)[0].detach()
    if form == "extrapolated":
        there = {name: value + a * moves.get(name, 0) for name, value in point.items()}
        return gradient(losses, there, player, player)[0].detach()
    if form == "difference":
        there = {name: value - moves.get(name, 0) for name, value in point.items()}
        return own + a * (own - gradient(losses, there, player, player)[0].detach())
    for j, move in moves.items():
        if form == "own":
            own = own + a * product(losses, point, player, j, move, player)
        else:
            own = own - a * product(losses, point, j, j, move, player)
    return own


def twin(losses, point, turns, a, form, lr, steps):
    """The points after each game step: Δ_j is counted for each pair, from the last update of the one who looks."""
    point = dict(point)
    seen = {i: dict(point) for i in point}  # where everybody was when i last updated
    path = []
    for _ in range(steps):
        for players in turns:
            found = {}
            for i in players:
                moves = {j: point[j] - seen[i][j] for j in point if j != i}
                found[i] = direction(losses, point, i, moves, a, form)
            for i in players:
                seen[i] = dict(point)
            point |= {i: point[i] - lr * d for i, d in found.items()}
        path.append(dict(point))
    return path


TURNS = {
    "alternating": [("x",), ("y",), ("z",)],
    "two moves of one": [("x",), ("y",), ("x",), ("z",)],
    "three in a row": [("z",), ("x",), ("x",), ("x",), ("y",)],
    "simultaneous": [("x", "y", "z")],
    "a pair and one": [("x", "z"), ("y",)],
}


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("form", ["opponent", "own", "difference", "extrapolated"])
def test_lead_with_three_players_is_its_twin(turns, form):
    rule = LEAD(0.8, form=form) if form in ("opponent", "own") else LEAD(0.8, cross=form)
    host = Host(rule, curved, vectors(), lr=0.1, turns=TURNS[turns])
    for expected in twin(curved, vectors(), TURNS[turns], 0.8, form, 0.1, 6):
        host.step()
        for name, value in host.values().items():
            assert torch.allclose(value, expected[name], rtol=0, atol=1e-13), name
    plain = twin(curved, vectors(), TURNS[turns], 0.0, form, 0.1, 6)[-1]
    assert max((plain[name] - expected[name]).abs().max() for name in plain) > 1e-3


@pytest.mark.parametrize("rule", [Extragradient(), ExtraAdam()], ids=label)
def test_extragradient_with_three_players_is_its_twin(rule):
    point = vectors()
    host = Host(rule, curved, point, lr=0.1)
    for _ in range(5):
        there = {i: point[i] - 0.1 * gradient(curved, point, i, i)[0].detach() for i in point}
        point = {i: point[i] - 0.1 * gradient(curved, there, i, i)[0].detach() for i in point}
        host.step()
        for name, value in host.values().items():
            assert torch.allclose(value, point[name], rtol=0, atol=1e-13)


def quadratic(point):
    x, y, z = point["x"], point["y"], point["z"]
    return {
        "x": 0.2 * x @ x + x @ XY @ y + x @ XZ @ z + y @ YZ @ z,
        "y": 0.3 * y @ y - x @ XY @ y + y @ YZ @ z,
        "z": 0.1 * z @ z + z @ ZY @ y - 0.5 * x @ XZ @ z,
    }


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
def test_on_a_quadratic_game_all_of_lead_s_own_forms_are_one(play):
    hosts = [
        Host(rule, quadratic, vectors(), lr=0.1, play=play)
        for rule in (LEAD(1.5, form="own"), LEAD(1.5, cross="extrapolated"), LEAD(1.5, cross="difference"))
    ]
    for _ in range(8):
        for host in hosts:
            host.step()
        first, *others = (torch.cat([*host.values().values()]) for host in hosts)
        assert all(torch.allclose(first, other, rtol=0, atol=1e-13) for other in others)


def together(point):
    """A game of two in which the second is one vector of five."""
    x, w = point["x"], point["w"]
    weights = torch.cat([XY.T, XZ.T])
    met = w @ weights @ x + 0.2 * w.sin().sum() * x.sum()
    return {"x": 0.2 * x @ x + met, "w": 0.3 * w.pow(4).sum() / 4 - met}


def apart(point):
    """The same, and the second is two players of three and two, with one loss; no term of it has them both."""
    losses = together({"x": point["x"], "w": torch.cat([point["y"], point["z"]])})
    return {"x": losses["x"], "y": losses["w"], "z": losses["w"]}


@pytest.mark.parametrize(
    ("rule", "play"), [(r, p) for r in SEVERAL for p in r.plays], ids=lambda v: getattr(v, "name", v)
)
def test_a_player_that_is_split_in_two_plays_as_before(rule, play):
    start = vectors()
    two = Host(rule, together, {"x": start["x"], "w": torch.cat([start["y"], start["z"]])}, lr=0.05, play=play)
    three = Host(rule, apart, start, lr=0.05, play=play)
    for _ in range(7):
        two.step()
        three.step()
    found = three.values()
    assert torch.allclose(two.values()["x"], found["x"], rtol=0, atol=1e-12), label(rule)
    assert torch.allclose(two.values()["w"], torch.cat([found["y"], found["z"]]), rtol=0, atol=1e-12), label(rule)


def cyclic(point):
    """Zero-sum by pairs: x plays against y, y against z, z against x; at rest at zero."""
    x, y, z = point["x"], point["y"], point["z"]
    return {"x": x @ y - z @ x, "y": y @ z - x @ y, "z": z @ x - y @ z}


@pytest.mark.parametrize("play", ["alternating", "simultaneous"])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("cross", ["exact", "extrapolated"])
def test_the_law_of_the_coupling_holds_for_three_players(play, momentum, cross):
    start = {name: value[:2] for name, value in vectors(3).items()}
    start |= {"z": start["x"].flip(0)}
    ends = {}
    for name, rule in (("LEAD", LEAD(cross=cross)), ("plain", GradientPlay())):
        sgd = lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=momentum)  # noqa: E731
        host = Host(rule, cyclic, start, lr=0.15 * (1 - momentum), play=play, optimizer=sgd)
        for _ in range(400):
            host.step()
        # the mean of the three is a direction in which nobody's loss changes
        ends[name] = torch.stack([*host.values().values()])
        ends[name] = float((ends[name] - ends[name].mean(0)).norm())
    first = float(torch.stack([*start.values()]).std(0, correction=0).norm())
    assert ends["LEAD"] < 0.02 * first
    assert ends["plain"] > first


# ---- in a trainer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", game_names())
def test_a_rule_trains_three_players_or_refuses_them_by_name(name):
    class Free(Trio):
        def constraints(self):
            return {}

    trio = Free(game=name, **({"optimizer": None} if name == "LEAD" else {}))
    before = networks(trio)
    rule = trio.game.rule
    if rule.needs.plays_several or not rule.needs.uses_opponent:
        tiny_trainer(2).fit(trio, tiny_loader(BATCH))
        assert trio.game.skipped == 0
        assert (networks(trio) - before).abs().max() > 1e-5
    else:
        with pytest.raises(ConfigurationError, match=f"Cannot play {rule.name} with 3 players.*defined for two"):
            tiny_trainer(2).fit(trio, tiny_loader(BATCH))


def test_a_rule_that_rests_elsewhere_is_refused_with_constraints():
    class Pair(Trio):
        def players(self):
            return {"first": self.first.parameters(), "delta": [self.delta]}

        def on_game_step_start(self, batch):
            self.delta.data = torch.zeros_like(batch[0])
            self.forget_player("delta")

    pair = Pair(game="ConsensusOptimization", learning_rates=0.05)
    with pytest.raises(ConfigurationError, match=r"Cannot play ConsensusOptimization with constraints.*got.*'delta'"):
        tiny_trainer(1).fit(pair, tiny_loader(BATCH))


@pytest.mark.parametrize("game", GAMES)
def test_a_resumed_run_of_three_is_the_uninterrupted_one_bit_for_bit(game, tmp_path):
    def run(ckpt=None):
        trio, trainer = Trio(game=game, optimizer=None), tiny_trainer(4)
        if ckpt is None:
            save = lambda *_: trainer.save_checkpoint(tmp_path / "2.ckpt") if trainer.global_step == 2 else None  # noqa: E731
            trio.on_train_batch_end = save
        else:
            trio.delta.data = torch.zeros(BATCH, 2, dtype=torch.float64)
        # two epochs of two alike batches, because a plain loader begins anew
        trainer.fit(trio, tiny_loader(BATCH, count=2 * BATCH), ckpt_path=ckpt)
        return torch.cat([networks(trio), trio.delta.detach().reshape(-1)])

    assert torch.equal(run(), run(tmp_path / "2.ckpt"))


@pytest.mark.ddp
def test_two_processes_equal_one_and_each_has_its_own_perturbations(tmp_path):
    processes.run_ranks(2, [Path(__file__).with_name("trio_on_ranks.py"), tmp_path / "result"], timeout=120)
    ranks = [torch.load(tmp_path / f"result.{rank}", weights_only=True) for rank in range(2)]
    for game in GAMES:
        alone = fitted(game, world_size=1, rank=0)
        for rank, found in enumerate(ranks):
            assert (found[game]["networks"] - networks(alone)).abs().max() < 1e-12, game
            # row k of rank r is sample 2k + r of the joint batch
            assert (found[game]["delta"] - alone.delta.detach()[rank::2]).abs().max() < 1e-12, game
        assert not torch.equal(ranks[0][game]["delta"], ranks[1][game]["delta"])
    assert ranks[0]["torn"]["torn"]  # a checkpoint has the perturbations of one rank
    assert not saved_between_turns(tmp_path / "alone.ckpt", world_size=1, rank=0)
    assert (ranks[0]["averaged"]["networks"] - networks(fitted(GAMES[0], world_size=1, rank=0))).abs().max() > 1e-7


def test_the_docs_say_what_each_rule_plays():
    page = (Path(__file__).parents[2] / "docs" / "players.md").read_text(encoding="utf-8")
    for name, rule in exported().items():
        needs = rule().needs
        players = "two" if not needs.plays_several else "two or more"
        row = f"| {name} | {players if needs.uses_opponent else 'any'} | {'no' if needs.unconstrained else 'yes'} |"
        assert row in page
    assert ODEGAN(regularization=0).needs.plays_several
    assert not ODEGAN(regularization=0).needs.unconstrained


class Meeting(LeadModule):
    """Three numbers with any losses."""

    def __init__(self, losses, **settings):
        super().__init__(optimizer=torch.optim.SGD, learning_rates=0.1, **settings)
        self.x, self.y, self.z = (torch.nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (1.0, 0.5, -0.7))
        self.losses = losses

    def players(self):
        return {"x": [self.x], "y": [self.y], "z": [self.z]}

    def player_losses(self, batch):
        return {name: loss.sum() for name, loss in self.losses(self.x, self.y, self.z).items()}


APART = {
    "opponents who play with each other": lambda x, y, z: {"x": (x - y) ** 2, "y": -y * z, "z": z * y},
    "one alone": lambda x, y, z: {"x": x * y, "y": -x * y, "z": z**2},
}


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("form", ["opponent", "own"])
def test_opponents_that_do_not_depend_on_a_player_have_no_part_in_its_term(name, form):
    def plain(values):
        found = APART[name](*values.values())
        return {key: loss.sum() for key, loss in found.items()}

    module = Meeting(APART[name], game=LEAD(0.7, form=form))
    start = {key: params[0].detach().clone() for key, params in module.players().items()}
    tiny_trainer(4).fit(module, tiny_loader(8))
    expected = twin(plain, start, TURNS["alternating"], 0.7, form, 0.1, 4)[-1]
    for key, (parameter,) in module.players().items():
        assert torch.allclose(parameter.detach(), expected[key], rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", ["opponent", "own"])
def test_a_detach_is_refused_also_beside_an_opponent_who_is_met(form):
    def losses(x, y, z):
        met = {"opponent": x.detach() * y, "own": x * y}[form]
        return {"x": x * z + (x * y.detach() if form == "own" else x * y), "y": -met, "z": -x * z}

    with pytest.raises(DifferentiationError, match="does not depend on|depends on none"):
        tiny_trainer(1).fit(Meeting(losses, game=LEAD(0.7, form=form)), tiny_loader(8))

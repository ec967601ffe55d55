"""Every rule on the device, and how often the host waits: by `GameStep` alone, and in a fit of a GAN."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from device_runs import waits_of_fit
from fake_device import KIND, fake_device
from host import Host
from rules_under_test import label, rules_under_test
from tiny import tiny_gan, tiny_loader

from lightning_lead import GameStrategy
from lightning_lead.calculus._krylov import conjugate_gradient, gmres
from lightning_lead.rules import AbstractGameRule

RULES = rules_under_test()
DOCS = Path(__file__).parents[2] / "docs" / "speed.md"
STEPS = 4
READS = {  # rules whose way depends on what they have found, and how many values of a turn they read for it
    "ACGD": "with n iterations of the solver 2 + n by gmres, 2 + 2n by cg",
    "CGD": "with n iterations of the solver 2 + n by gmres, 2 + 2n by cg",
    'LEAD(cross="auto")': "1 in the first discriminator turn of every `check_every`-th game step, 0 in others",
}


def name_of(rule: AbstractGameRule) -> str:
    """A rule's name in the table; LEAD has a line for a form that reads."""
    forms = {'LEAD(cross="auto")': getattr(rule, "cross", None) == "auto"}
    return next((name for name, fits in forms.items() if fits), type(rule).__name__)


def saddle(values):
    """Smooth, curved, and zero-sum."""
    x, y = values["x"], values["y"]
    loss = x @ y + 0.1 * x.sin().square().sum() - 0.2 * y.square().sum()
    return {"x": loss, "y": -loss}


def played(rule: AbstractGameRule, play: str, skip_limit: int | None, kind: str) -> Host:
    start = {"x": torch.tensor([1.0, -0.5], dtype=torch.float64), "y": torch.tensor([0.3, 0.2], dtype=torch.float64)}
    host = Host(copy.deepcopy(rule), saddle, {k: v.to(kind) for k, v in start.items()}, lr=0.05, play=play)
    host.game.skip_limit = skip_limit
    return host


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_a_game_step_plays_on_the_device_and_waits_as_the_table_says(rule):
    """The finite check is one wait per turn, whatever the rule; the other waits are the rule's own."""
    for play in rule.plays:
        here = played(rule, play, None, "cpu")
        for _ in range(STEPS):
            here.step()
        turns = STEPS * (1 if play == "simultaneous" else 2)
        own = None
        for limit in (None, 10) if play == rule.plays[0] else (None,):
            with fake_device() as device:
                there = played(rule, play, limit, KIND)
                with device.counted() as waits:
                    for _ in range(STEPS):
                        there.step()
                ends = {name: value.cpu() for name, value in there.values().items()}
            own = waits.total() if own is None else own
            assert waits.total() == own + (turns if limit else 0), waits
            for name, value in here.values().items():
                assert torch.equal(ends[name], value)
        assert (own > 0) == (name_of(rule) in READS), (own, waits)


def test_solvers_wait_as_often_as_the_table_says():
    """GMRES reads a column of its small problem at once, conjugate gradients two numbers per iteration."""
    a = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    b = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for solve, each in ((gmres, 1), (conjugate_gradient, 2)):
        with fake_device() as device:
            matrix, right = a.to(KIND), b.to(KIND)
            with device.counted() as waits:
                found = solve(lambda v, matrix=matrix: (matrix @ v[0],), (right,), tolerance=1e-12)
            assert found.converged
            assert waits.total() == 2 + each * found.iterations, waits
            assert torch.allclose(found.x[0].cpu(), torch.linalg.solve(a, b))


def one_of_each() -> dict[str, AbstractGameRule]:
    """Name -> the first variant of each kind: of LEAD every form."""
    found: dict[str, AbstractGameRule] = {}
    for rule in RULES:
        found.setdefault(f"{type(rule).__name__} {getattr(rule, 'cross', '')}".strip(), rule)
    return found


@pytest.mark.parametrize("name", one_of_each())
def test_a_fit_of_a_gan_waits_once_per_turn(name):
    """In passes of Lightning's loop that nothing is logged in; the first one looks at the losses."""
    rule = one_of_each()[name]
    settings = {"objective": "minimax"} if rule.needs.zero_sum else {}
    with fake_device() as device:
        gan = tiny_gan(game=GameStrategy(copy.deepcopy(rule)), **settings)
        waits = waits_of_fit(device, gan, tiny_loader(24), steps=2)[1]
    turns = 1 if gan.game.play == "simultaneous" else 2
    assert torch.isfinite(torch.cat([p.detach().flatten() for p in gan.parameters()])).all()
    assert waits.total() == turns if name_of(rule) not in READS else waits.total() >= turns, waits


def test_the_table_in_the_docs_is_this_one():
    """A rule that is exported and not in it fails here."""
    names = sorted({name_of(rule) for rule in RULES} - READS.keys())
    lines = [f"| {', '.join(f'`{name}`' for name in names)} | 0 |"]
    lines += [f"| `{name}` | {text} |" for name, text in READS.items()]
    table = "\n".join(["| rule | values read per turn with `skip_limit=None` |", "|---|---|", *lines])
    assert table in DOCS.read_text(encoding="utf-8"), f"docs/speed.md is to have\n\n{table}"

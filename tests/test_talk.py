"""The scripts of the talk run, briefly, and draw what they say."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import processes
import pytest
import torch
from PIL import Image

from lightning_lead.analysis import FAMILIES, Spectrum, alternating_lead_law, best_settings
from lightning_lead.engine.named_rules import find_game

TALK = Path(__file__).parents[1] / "examples" / "talk"
PUBLISHED = TALK.parents[1] / "docs" / "images" / "talk"
TALKS = [
    ("eigenvalues", ["eigenvalues"]),
    ("potential_well", ["potential_well"]),
    ("forces", ["forces"]),
    ("bilinear", ["bilinear"]),
    ("cost", ["cost"]),
    ("rates", ["adversarialness", "spectra"]),
    ("regime", ["regime"]),
    ("strong_coupling", ["strong_coupling"]),
    ("modes", ["modes", "samples"]),
    ("robustness", ["robustness", "momentum"]),
    ("moons", ["moons"]),
]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the talk by its name, as its scripts do."""
    monkeypatch.syspath_prepend(str(TALK))
    loaded: list[str] = []

    def load(name: str) -> ModuleType:
        loaded.extend(path.stem for path in TALK.glob("*.py"))
        return importlib.import_module(name)

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def run(folder: Path, *command: object) -> str:
    done = processes.run(command, cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def pixels_of(picture: Image.Image, colour: str) -> int:
    """How many have exactly this colour, "#rrggbb"."""
    pixels = np.asarray(picture.convert("RGB"))
    return int((pixels == np.array(list(bytes.fromhex(colour[1:])), dtype=np.uint8)).all(axis=-1).sum())


@pytest.mark.slow
@pytest.mark.parametrize(("script", "pictures"), TALKS)
def test_the_figures_are_drawn(script: str, pictures: list[str], tmp_path: Path) -> None:
    run(tmp_path, TALK / f"{script}.py", "--fast")
    drawn = tmp_path / "runs" / "talk"
    assert {path.stem for path in drawn.glob("*.png")} == set(pictures)
    for name in pictures:
        with Image.open(drawn / f"{name}.png") as here, Image.open(PUBLISHED / f"{name}.png") as there:
            assert len(here.convert("RGB").getcolors(maxcolors=2**24)) > 50
            if name != "samples":  # which has a column for each method, and of these only two are drawn here
                assert here.width / here.height == pytest.approx(there.width / there.height, rel=0.01)
    for film in drawn.glob("*.gif"):
        with Image.open(film) as frames:
            assert frames.n_frames > 1
    assert (drawn / "forces.gif").exists() == (script == "forces")


DO_NOT_SHRINK = {"simultaneous gradient play", "alternating gradient play", "simultaneous momentum"}  # bilinear games


@pytest.mark.parametrize(
    ("name", "panels", "missing"),
    [("adversarialness", (0.0, 0.0, 0.73, 1.0), set()), ("regime", (0.0, 0.53, 1.0, 1.0), DO_NOT_SHRINK)],
)
def test_a_published_picture_has_every_curve(
    name: str, panels: tuple[float, ...], missing: set[str], talk: Any
) -> None:
    """In its own colour, beside the legend: as shares of width and height, left, top, right and bottom."""
    colours = talk("contenders").COLOURS
    assert len(set(colours.values())) == len(colours)
    with Image.open(PUBLISHED / f"{name}.png") as picture:
        width, height = picture.size
        inside = picture.crop(tuple(round(p * side) for p, side in zip(panels, (width, height) * 2, strict=True)))
        drawn = {rule for rule, colour in colours.items() if pixels_of(inside, colour) > 250}  # text has some grey
    assert colours.keys() - drawn == missing


def test_every_game_whose_cost_is_drawn_is_known(talk: Any) -> None:
    """With --fast every third one is."""
    assert len({repr(find_game(name)) for name in talk("cost").GAMES.values()}) > 15


def test_no_family_is_left_out(talk: Any) -> None:
    contenders = talk("contenders")
    renamed = {"lookahead, 5 alternating steps": "lookahead, alternating"}
    assert {renamed.get(name, name) for name in FAMILIES} == set(contenders.COLOURS)


def test_steps_and_evaluations_are_of_the_same_rate(talk: Any) -> None:
    contenders = talk("contenders")
    assert contenders.game_steps(0.1) == pytest.approx(6.0)
    assert math.isnan(contenders.game_steps(1.0))
    spectrum = Spectrum.between(1.0, 3.0, 0.5)
    found = contenders.best_of_all(spectrum, fast=True)
    assert list(found) == [name for name in contenders.COLOURS if name != contenders.CGD_NAME]
    lead = found[contenders.LEAD_NAME]
    assert contenders.evaluations(lead) == pytest.approx(2 * contenders.game_steps(lead.radius))
    assert lead.radius >= alternating_lead_law(1.0, 3.0, 0.5).rate - 1e-9


def test_a_solver_s_products_are_counted(talk: Any) -> None:
    """More than the lower bound, and more where the game is worse conditioned."""
    contenders, tables = talk("contenders"), talk("rate_tables")
    needed = [contenders.solver_evaluations(1.0, kappa, 0.0, fast=True) for kappa in (2.0, 5.0)]
    assert needed[0] < needed[1] < math.inf
    for kappa, count in zip((2.0, 5.0), needed, strict=True):
        assert count > 2 * contenders.game_steps(tables.bound(kappa, 0.0))


def test_curves_that_coincide_share_a_line_in_stripes(talk: Any) -> None:
    lines: list[dict[str, Any]] = []
    axes = SimpleNamespace(plot=lambda xs, ys, **style: lines.append({"xs": xs, "ys": ys, **style}))
    curves = {"a": [1.0, 2.0, 3.0, 9.0], "b": [1.0, 2.001, 3.0, 5.0], "c": [9.0, math.nan, 7.0, 6.0]}
    talk("drawing").striped(axes, [0.0, 1.0, 2.0, 3.0], curves, {name: name for name in curves})
    drawn = {(line["color"], tuple(line["xs"])): line["ls"] for line in lines}
    (start_a, dashes_a), (start_b, dashes_b) = (drawn.pop((name, (0.0, 1.0, 2.0))) for name in "ab")
    assert dashes_a == dashes_b
    assert sum(dashes_a) == 2 * dashes_a[0]  # as much gap as dash
    assert abs(start_a - start_b) == dashes_a[0]  # where one has its gap
    # apart from there on, and nothing at all at what is not a number
    assert drawn == {(name, (2.0, 3.0)): "-" for name in "abc"}


@pytest.mark.slow
def test_the_tables_have_a_row_for_every_rule_and_nothing_beats_what_cannot_be_beaten(
    tmp_path: Path, talk: Any
) -> None:
    printed = run(tmp_path, TALK / "rate_tables.py", "--fast").splitlines()
    rows = [line.strip("| ").split(" | ") for line in printed if line.startswith("| ")]
    names = list(talk("contenders").COLOURS)
    half = 1 + len(names) + 1  # head, rules, law; the second table has the bound as well
    assert len(rows) == 2 * half + 1
    per_step, per_work = rows[:half], rows[half:]
    for table in (per_step, per_work):
        assert [row[0].strip("*").split("** (")[0].split(" (")[0] for row in table[1 : 1 + len(names)]] == names

    def numbers(table: list[list[str]], start: str) -> list[float]:
        (row,) = [row for row in table if row[0].startswith(start)]
        return [float(cell) for cell in row[1:]]

    found, law = numbers(per_step, "**alternating LEAD**"), numbers(per_step, "the law")
    assert found == pytest.approx(law, abs=0.03)  # from a coarse search
    assert all(f >= r - 1e-4 for f, r in zip(found, law, strict=True))
    bound = torch.tensor(numbers(per_work, "lower bound"))
    for row in per_work[1:-1]:
        assert (torch.tensor([float(cell) for cell in row[1:]]) > bound).all(), row
    matches = [line for line in printed if line.startswith("bilinear game")]
    assert "took 80 game steps for six digits, its rate alone says 69" in matches[1]  # as docs/games.md has it


def test_the_published_tables_are_those_of_the_law_and_say_what_the_page_says_of_them(talk: Any) -> None:
    page = (TALK.parents[1] / "docs" / "games.md").read_text()
    rates: dict[tuple[float, str], dict[str, torch.Tensor]] = {}  # (h, unit) -> rule -> rates by κ
    for block in page.split("\n\n"):
        head, *rows = block.splitlines()
        if not head.startswith("| h = "):
            continue
        curvature, unit = head.strip("| ").split(" | ")[0].removeprefix("h = ").split(", ")
        h = {"0": 0.0, "0.1 m": 0.1, "m": 1.0}[curvature]
        cells = [row.strip("| ").split(" | ") for row in rows[1:]]
        rates[h, unit] = {
            name.strip("*").split("** (")[0].split(" (")[0]: torch.tensor(
                [0.0 if r == "any" else float(r) for r in row]
            )
            for name, *row in cells
        }
    assert len(rates) == 6
    for (h, _), found in rates.items():
        law = [alternating_lead_law(1.0, kappa, h).rate for kappa in (2.0, 5.0, 10.0, 50.0, 100.0)]
        assert found["alternating LEAD"].tolist() == pytest.approx(law, abs=6e-5)  # a step takes two evaluations
        assert torch.equal(found["alternating LEAD"], found["the law for alternating LEAD"])

    contenders = talk("contenders")
    lead, cgd, optimistic = contenders.LEAD_NAME, contenders.CGD_NAME, contenders.OPTIMISTIC_NAME
    beside = {lead, cgd, optimistic, "the law for alternating LEAD", "lower bound"}
    for h in (0.0, 0.1):
        step = rates[h, "per game step"]
        assert all((step[rule] > step[lead]).all() for rule in step.keys() - beside)
    assert (rates[1.0, "per game step"]["ODE-GAN, RK4"] < rates[1.0, "per game step"][lead]).all()
    for level, ahead in ((1.5, False), (2.0, True)):  # curvature in units of the largest singular value
        dense = Spectrum.between(1.0, 10.0, level * 10.0, points=101)
        law = alternating_lead_law(1.0, 10.0, level * 10.0)
        assert (best_settings("level-4 play", dense).radius < law.rate) == ahead
    for (h, unit), found in rates.items():
        if unit == "per two evaluations":
            assert torch.equal(found[lead], found[optimistic])
            best = [min(found[rule][k].item() for rule in found if rule != "lower bound") for k in range(5)]
            assert best == [found[cgd if (h, k) in ((0.1, 2), (0.1, 4)) else lead][k].item() for k in range(5)]

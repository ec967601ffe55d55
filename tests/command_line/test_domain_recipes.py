"""The recipes of domains train by their texts, score, and are compared by the games file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from recipe_kit import QUIET, RECIPES

from lightning_lead import DANNModule, GroupDROModule, IRMGamesModule, IRMv1Module
from lightning_lead.cli import main
from lightning_lead.compare._plan import plan_runs, read_entries
from lightning_lead.compare._report import summary, write_report
from lightning_lead.compare.worker import run as run_here
from lightning_lead.engine.named_rules import find_game

pytest.importorskip("sklearn")
MODULES = {
    "domains_dann_moons": DANNModule,
    "domains_dann_digits": DANNModule,
    "domains_group_dro": GroupDROModule,
    "domains_coloured_digits": IRMv1Module,
    "domains_environments": IRMGamesModule,
}
TABLES = {"domains_dann_digits": "digits", "domains_group_dro": "several", "domains_environments": "several"}
ENTRIES = read_entries([], RECIPES / "domains_games.yaml")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    return tmp_path


def scores(trainer: Any) -> Any:
    return next(callback for callback in trainer.callbacks if hasattr(callback, "history"))


@pytest.mark.parametrize("name", MODULES)
def test_the_recipe_trains_and_scores(name: str, here: Path) -> None:
    short = ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1", *QUIET]
    config = here / "recipe.yaml"
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    for every in (10, 50):
        text = text.replace(f"every_n_steps: {every}\n", "every_n_steps: 2\n")
    config.write_text(text, encoding="utf-8")
    fitted = main(["fit", f"--config={config}", *short])
    assert isinstance(fitted.model, MODULES[name])
    (record,) = scores(fitted.trainer).history
    assert record["step"] == fitted.trainer.global_step == 2
    assert all(0.0 <= value <= 1.0 for value in record["values"].values())


@pytest.mark.slow
def test_every_row_of_the_games_file_plays_the_moons_in_a_table_with_its_protocol(here: Path) -> None:
    runs = plan_runs(
        ENTRIES, RECIPES / "domains_dann_moons.yaml", [0], here / "out", ["--trainer.max_steps=2", "--every=2"]
    )
    results = [run_here(run.folder, run.fingerprint, list(run.arguments)) for run in runs]
    for run, result in zip(runs, results, strict=True):
        assert (result["steps"], result["skipped_turns"]) == (2, 0), run.entry.label
        assert result["history"][-1]["values"]["accuracy/held_out"] > 0
    assert all(row["accuracy/held_out"][0] > 0 for row in summary(runs, results))
    text = write_report(runs, results, here / "out", score="accuracy/held_out_selected_on_validation")
    assert text.splitlines()[0].startswith("| game | accuracy/held_out_selected_on_validation |")
    assert "Scores: held out: target (300 samples, seen without labels)" in text


def test_the_games_file_has_the_rows_of_the_question() -> None:
    rules = {entry.label: find_game(entry.game) for entry in ENTRIES}
    assert {game.rule.name for game in rules.values()} >= {"OptimisticAdam", "ExtraAdam", "ODEGAN", "LEAD"}
    assert {game.play for game in rules.values()} == {"alternating", "simultaneous"}
    assert {getattr(game.rule, "scheme", None) for game in rules.values()} >= {"heun", "rk4"}
    assert {getattr(game.rule, "cross", None) for game in rules.values()} >= {"exact", "extrapolated"}


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "table"), TABLES.items())
def test_every_row_of_the_other_tables_plays_its_recipe(recipe: str, table: str, here: Path) -> None:
    entries = read_entries([], RECIPES / f"domains_{table}_games.yaml")
    config = RECIPES / f"{recipe}.yaml"
    for run in plan_runs(entries, config, [0], here / "out", ["--trainer.max_steps=2", "--every=2"]):
        result = run_here(run.folder, run.fingerprint, list(run.arguments))
        assert (result["steps"], result["skipped_turns"]) == (2, 0), run.entry.label


def test_the_tables_of_moons_and_digits_have_the_same_rows_but_for_rates() -> None:
    digits = read_entries([], RECIPES / "domains_digits_games.yaml")
    assert [(entry.label, entry.game) for entry in digits] == [(entry.label, entry.game) for entry in ENTRIES]

"""The robust recipes: each row of their table plays them, as `compare` runs it, and their images fit their numbers."""

from __future__ import annotations

import re
import sys

import pytest
from recipe_kit import QUIET, RECIPES, write_store

from lightning_lead.cli import main
from lightning_lead.compare._plan import plan_runs, read_entries
from lightning_lead.compare._report import write_report
from lightning_lead.compare.worker import run as run_here
from lightning_lead.engine.named_rules import find_game

ROWS = read_entries([], RECIPES / "robust_games.yaml")
NAMES = ["robust_digits_pgd", "robust_digits_universal", "robust_cifar10_pgd"]


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    write_store(tmp_path / "store" / "cifar10", train=40, test=20)
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(tmp_path / "store"))
    # without the file of all settings, and without those in the checkpoint, which take longer than a small fit
    monkeypatch.setattr("pytorch_lightning.cli.SaveConfigCallback.setup", lambda *_, **__: None)
    monkeypatch.setattr("pytorch_lightning.cli.LightningCLI.config_dump", {}, raising=False)
    return tmp_path


def small(name, here):
    """The recipe with few samples, on narrow networks."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    for key, value in (("num_samples", "10"), ("width", "2"), ("batch_size", "8"), ("attacks", "[pgd-2]")):
        text, found = re.subn(rf"(\b{key}:) [^#\n]+", rf"\1 {value}", text)
        assert found, key
    path = here / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


PLAYED = [(name, row) for name in NAMES for row in ROWS if name != "robust_cifar10_pgd" or row is ROWS[0]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*in eval mode.*:UserWarning")
@pytest.mark.parametrize(("name", "row"), PLAYED, ids=[f"{name}: {row.slug}" for name, row in PLAYED])
def test_every_row_of_the_table_plays_the_recipe(name, row, here):
    (run,) = plan_runs([row], small(name, here), [0], here / "out", ["--trainer.max_steps=2", "--every=2", *QUIET[:1]])
    result = run_here(run.folder, run.fingerprint, list(run.arguments))
    assert (result["history"][-1]["step"], result["steps"], result["skipped_turns"]) == (2, 2, 0)
    values = result["history"][-1]["values"]
    assert next(iter(values)) == "robust_accuracy/pgd-2"  # the first is the one of the table
    assert all(0 <= value <= 1 for value in values.values())
    assert result["protocol"]["attacks"]["pgd-2"]["library"].startswith("lightning-lead")
    text = write_report([run], [result], here / "out")
    assert re.search(r"Scores: pgd-2 \(lightning-lead .*\), ε = .* in linf, .*, 10 of ", text)


def test_the_table_has_plain_play_and_both_forms_of_lead():
    rules = [find_game(row.game) for row in ROWS]
    assert all(game.play == "alternating" for game in rules)
    assert len({game.rule.name for game in rules}) >= 4
    assert {game.rule.cross for game in rules if game.rule.name == "LEAD"} == {"exact", "extrapolated"}


@pytest.mark.parametrize("name", NAMES)
def test_epsilon_is_in_the_units_of_the_images_and_one_for_training_and_score(name, here):
    built = main([f"--config={small(name, here)}", *QUIET], run=False)
    (score,) = (c for c in built.trainer.callbacks if type(c).__name__ == "RobustAccuracy")
    assert built.model.value_range == built.datamodule.image_range == score.suite.value_range
    if name != "robust_digits_universal":  # whose score is that of attacks of each image
        assert score.suite.epsilon == built.model.attack.epsilon
    if "cifar10" in name:  # the papers' numbers, for images in [0, 1]
        assert built.model.attack.epsilon / 2 == pytest.approx(8 / 255)
        assert built.model.attack.step_size / 2 == pytest.approx(2 / 255)


def test_the_loss_and_the_game_are_flags(here):
    path = small("robust_digits_pgd", here)
    built = main([f"--config={path}", "--model.loss=trades", "--game=LEAD(cross='extrapolated')", *QUIET], run=False)
    assert built.model.loss.beta == 6.0
    assert built.model.game.rule.cross == "extrapolated"
    loss = "{class_path: lightning_lead.robust.MART, init_args: {weight: 4.0}}"
    assert main([f"--config={path}", f"--model.loss={loss}", *QUIET], run=False).model.loss.weight == 4.0

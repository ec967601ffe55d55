"""The command line: the recipe fits, validates, tests and predicts; every setting is explained."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import pytest
import torch

from lightning_lead import LeadGANModule
from lightning_lead.cli import command as command_line
from lightning_lead.cli import main
from lightning_lead.objectives import R1, WGANGP
from lightning_lead.systems import find_game

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "digits.yaml"


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lightning-lead", *map(str, arguments)])
        return main()

    return run


QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def fit(command, *more):
    return command("fit", f"--config={RECIPE}", "--trainer.max_steps=3", "--trainer.log_every_n_steps=1", *QUIET, *more)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # each run of the recipe gets a folder of its own
def test_the_recipe_fits_and_its_checkpoint_validates_tests_and_predicts(command, tmp_path):
    fitted = fit(command)
    assert fitted.trainer.global_step == 3
    assert fitted.model.game.rule.alpha == 3.0
    assert fitted.trainer.optimizers[0].param_groups[0]["betas"] == (0.5, 0.9)
    fitted.trainer.save_checkpoint("gan.ckpt")
    for name in ("validate", "test"):
        evaluated = command(name, f"--config={RECIPE}", "--ckpt_path=gan.ckpt", "--trainer.limit_val_batches=1", *QUIET)
        assert evaluated.trainer.callback_metrics["fid"] > 0
    records = [record for path in tmp_path.rglob("generative_metrics.json") for record in json.loads(path.read_text())]
    assert {"validate", "test"} <= {record["stage"] for record in records}
    assert all(record["step"] == 3 and record["protocol"]["num_samples"] == 2000 for record in records)
    command("predict", f"--config={RECIPE}", "--ckpt_path=gan.ckpt", "--return_predictions=false", *QUIET)
    assert len(list(Path("runs/digits/predictions").rglob("*.png"))) >= 64


@pytest.mark.slow
def test_the_recipe_of_spectral_normalization_plays_five_discriminator_steps_and_lets_the_rates_fall(command):
    small = [
        "--model.generator.width=4",
        "--model.discriminator.width=4",
        "--data.batch_size=20",
        "--trainer.max_steps=2",
    ]
    recipe = RECIPE.with_name("sngan.yaml")
    fitted = command("fit", f"--config={recipe}", "--model.generator_batch_size=8", *small, *QUIET)
    assert fitted.trainer.global_step == 2
    assert fitted.model.discriminator_steps == 5
    weights = [
        layer for layer in fitted.model.discriminator.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    assert weights
    assert all(torch.nn.utils.parametrize.is_parametrized(layer, "weight") for layer in weights)
    assert all(
        group["lr"] == pytest.approx(2e-4 * (1 - 2 / 1000)) for group in fitted.trainer.optimizers[0].param_groups
    )


def test_every_setting_of_the_module_is_explained(command, capsys):
    with pytest.raises(SystemExit):
        command("fit", "--help")
    text = " ".join(capsys.readouterr().out.split())
    for name, parameter in inspect.signature(LeadGANModule).parameters.items():
        values = "{true,false}" if parameter.annotation == "bool" else name.upper()
        start = text.rindex(f"--model.{name} {values}")
        entry = text[start : start + 600]
        said = inspect.getdoc(LeadGANModule).split(f"{name}: ")[1].split()[:3]
        assert " ".join(said) in entry, (name, parameter)


def test_settings_of_the_game_and_of_a_callback_are_explained(command, capsys):
    for option, words in {
        "--model.game.help=lightning_lead.LEADStrategy": ["coupling a in gradient units", '"exact" or "difference"'],
        "--trainer.callbacks.help=lightning_lead.GeneratorEMA": ["counts half"],
    }.items():
        with pytest.raises(SystemExit):
            command("fit", option)
        text = " ".join(capsys.readouterr().out.split())
        assert all(word in text for word in words), text


def test_a_setting_on_the_command_line_wins_over_the_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    settings = ["--model.game.init_args.alpha=0.25", "--model.discriminator_steps=2"]
    built = main([f"--config={RECIPE}", *settings], run=False)
    assert built.model.game.rule.alpha == 0.25
    assert built.model.discriminator_steps == 2


def test_a_penalty_is_given_by_its_class(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    settings = ["--model.penalty=lightning_lead.objectives.R1", "--model.penalty.weight=3"]
    built = main([f"--config={RECIPE}", *settings], run=False)
    assert built.model.penalty == R1(weight=3.0)
    Path("penalty.yaml").write_text(
        "model:\n  penalty:\n    class_path: lightning_lead.objectives.WGANGP\n    init_args: {weight: 2.0}\n"
    )
    built = main([f"--config={RECIPE}", "--config=penalty.yaml"], run=False)
    assert built.model.penalty == WGANGP(weight=2.0)
    assert main([f"--config={RECIPE}"], run=False).model.penalty is None


def test_a_game_is_chosen_by_one_flag_and_wins_over_the_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    built = main([f"--config={RECIPE}", "--game", "LevelK(level=3)"], run=False)
    assert built.model.game.rule.name == "LevelK"
    assert built.model.game.rule.level == 3
    assert built.model.game.play == "simultaneous"
    assert main([f"--config={RECIPE}", "--model.game=ExtraAdam"], run=False).model.game.rule.name == "ExtraAdam"


def test_the_installed_command_ends_with_status_zero_or_says_what_is_wrong(monkeypatch):
    monkeypatch.setattr("lightning_lead.cli.main", lambda: object())
    command_line()
    monkeypatch.setattr("lightning_lead.cli.main", lambda: find_game("LEED"))
    with pytest.raises(SystemExit, match="lightning-lead: Cannot find the game 'LEED'"):
        command_line()


def test_a_bad_setting_is_refused_with_the_reason(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    with pytest.raises((SystemExit, ValueError)) as caught:
        main([f"--config={RECIPE}", "--model.game.init_args.alpha=-1"], run=False)
    assert "finite number ≥ 0" in str(caught.value) + capsys.readouterr().err


def test_checkpoints_of_the_command_line_load_with_weights_only(command):
    fit(command, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=ckpt")
    for path in Path().rglob("*.ckpt"):
        assert "lightning_lead" in torch.load(path, weights_only=True)

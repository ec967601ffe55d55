"""The command line: the recipe fits, validates, tests and predicts; every setting is explained."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from pathlib import Path

import processes
import pytest
import torch

from lightning_lead import (
    CheckpointMismatchError,
    ConfigurationError,
    DifferentiationError,
    DivergenceError,
    LeadGANModule,
)
from lightning_lead.cli import command as command_line
from lightning_lead.cli import main
from lightning_lead.engine.named_rules import find_game
from lightning_lead.fetch import FetchError
from lightning_lead.objectives import R1, WGANGP

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
    assert (fitted.model.game.rule.coupling, fitted.model.game.rule.cross) == ("auto", "extrapolated")
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
        # from Python 3.13 on all of an option's names come before the values
        starts = [found.start() for found in re.finditer(rf"--model\.{name}(, \S+)* {values}", text)]
        entry = text[starts[-1] : starts[-1] + 600]
        said = inspect.getdoc(LeadGANModule).split(f"{name}: ")[1].split()[:3]
        assert " ".join(said) in entry, (name, parameter)


def test_settings_of_the_game_and_of_a_callback_are_explained(command, capsys):
    for option, words in {
        "--model.game.help=lightning_lead.LEADStrategy": ["COUPLING a in gradient units", '"extrapolated", or "auto"'],
        "--trainer.callbacks.help=lightning_lead.GeneratorEMA": ["counts half"],
    }.items():
        with pytest.raises(SystemExit):
            command("fit", option)
        text = " ".join(capsys.readouterr().out.split())
        assert all(word in text for word in words), text


def test_a_setting_on_the_command_line_wins_over_the_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    settings = ["--model.game.init_args.coupling=0.25", "--model.discriminator_steps=2"]
    built = main([f"--config={RECIPE}", *settings], run=False)
    assert built.model.game.rule.coupling == 0.25
    assert built.model.discriminator_steps == 2


@pytest.mark.parametrize(
    ("settings", "coupling", "cross"),
    [
        (["--model.game.init_args.coupling=auto", "--model.game.init_args.cross=extrapolated"], "auto", "extrapolated"),
        (["--model.game.init_args.coupling=1.5", "--model.game.init_args.cross=exact"], 1.5, "exact"),
        (
            ["--model.game.init_args.coupling={discriminator: 0.5, generator: 0.01}"],
            {"discriminator": 0.5, "generator": 0.01},
            "extrapolated",
        ),
        (
            ["--game=LEAD(coupling={'discriminator': 0.5, 'generator': 0.01})"],
            {"discriminator": 0.5, "generator": 0.01},
            "exact",
        ),
        (["--game=LEAD(cross='extrapolated')"], "auto", "extrapolated"),
    ],
)
def test_a_coupling_is_a_number_one_for_each_player_by_name_or_the_law(
    settings, coupling, cross, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    rule = main([f"--config={RECIPE}", *settings, *QUIET], run=False).model.game.rule
    assert (rule.coupling, rule.cross) == (coupling, cross)


def test_the_old_name_of_the_coupling_warns_and_works_in_a_recipe_and_as_a_flag(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    Path("old.yaml").write_text("model: {game: {class_path: lightning_lead.LEADStrategy, init_args: {alpha: 2.0}}}")
    old = [f"--config={RECIPE}", "--config=old.yaml"]
    for arguments, expected in (
        (old, 2.0),
        ([*old, "--model.game.init_args.alpha=1.5"], 1.5),
        ([f"--config={RECIPE}", "--game=LEAD(alpha=3)"], 3.0),
    ):
        with pytest.warns(FutureWarning, match="alpha is called coupling"):
            built = main([*arguments, *QUIET], run=False)
        assert built.model.game.rule.coupling == expected
    with pytest.raises((SystemExit, ValueError), match="alpha and coupling together"):
        main([*old, "--model.game.init_args.coupling=1.5", *QUIET], run=False)


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


HALFWAY = """
from lightning_lead.rules import GradientPlay


class Halfway(GradientPlay):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_a_rule_in_the_current_folder_is_found_by_the_installed_command(there, tmp_path):
    installed = tmp_path / "bin" / "lightning-lead"  # as pip writes it: its own folder is where modules are looked for
    installed.parent.mkdir()
    installed.write_text("from lightning_lead.cli import command\nif __name__ == '__main__':\n    command()\n")
    if there:
        (tmp_path / "halfway.py").write_text(HALFWAY)
    chosen = [f"--config={RECIPE}", "--game=halfway.Halfway", "--trainer.fast_dev_run=1", *QUIET]
    fitted = processes.run([installed, "fit", *chosen], cwd=tmp_path, timeout=300)
    assert (fitted.returncode == 0) == there, fitted.stderr
    assert there or "Cannot find the game 'halfway.Halfway' because No module named 'halfway'" in fitted.stderr


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """What the installed command says at its end, for arguments that cannot work."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lightning-lead", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command_line()
        said = caught.value.code
        assert isinstance(said, str)  # which Python prints, and makes status 1
        assert said.startswith("lightning-lead: ")
        assert len(said) < 600
        assert "\n" not in said
        return said

    return run


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_what_is_not_on_this_machine_is_one_line_with_the_command_that_fetches_it(
    command, ended, monkeypatch, tmp_path
):
    """The reason lies in jsonargparse's own error."""
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    recipe = RECIPE.with_name("cifar10_sngan32.yaml")
    torch.save({"state_dict": {}, "global_step": 0}, tmp_path / "a.ckpt")
    more = ["--checkpoint", tmp_path / "a.ckpt"] if command == "evaluate" else []
    assert "lightning-lead fetch" in ended(command, "--config", recipe, *more, "--trainer.accelerator=cpu")


@pytest.mark.parametrize("error", [CheckpointMismatchError, DivergenceError, DifferentiationError, FetchError])
def test_every_error_of_the_package_is_one_line_wherever_it_lies(error, ended, monkeypatch):
    def fails():
        try:
            raise error("Cannot go on; do this")
        except error as reason:
            try:
                raise KeyError("a library's") from reason
            except KeyError:
                raise TypeError("in passing")  # noqa: B904

    monkeypatch.setattr("lightning_lead.cli.main", fails)
    assert ended() == "lightning-lead: Cannot go on; do this"


def test_other_errors_keep_their_traceback(monkeypatch):
    def fails():
        try:
            find_game("LEED")
        except ConfigurationError:
            raise KeyError("a bug") from None

    monkeypatch.setattr("lightning_lead.cli.main", fails)
    with pytest.raises(KeyError, match="a bug"):
        command_line()


def test_checkpoints_that_cannot_be_resumed_are_one_line(command, ended):
    fit(command).trainer.save_checkpoint("gan.ckpt")
    again = ["fit", f"--config={RECIPE}", "--trainer.max_steps=4", *QUIET]
    assert "Checkpoint file not found: none.ckpt" in ended(*again, "--ckpt_path=none.ckpt")
    assert "rule 'LEAD'" in ended(*again, "--ckpt_path=gan.ckpt", "--game=ExtraAdam")
    wider = "--model.generator.init_args.width=8"
    for said in (
        ended(*again, "--ckpt_path=gan.ckpt", wider),
        ended("evaluate", "--config", RECIPE, "--checkpoint", "gan.ckpt", wider, "--weights=live"),
    ):
        assert re.search(r"generator\.\S+ (has shape|where)", said)
        assert re.search(r"the first of \d+ .*that differ", said)
        assert "--model...= overrides" in said


def test_a_bad_setting_is_refused_with_the_reason(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    with pytest.raises((SystemExit, ValueError)) as caught:
        main([f"--config={RECIPE}", "--model.game.init_args.coupling=-1"], run=False)
    assert "finite number ≥ 0" in str(caught.value) + capsys.readouterr().err


@pytest.mark.slow
def test_every_run_keeps_its_checkpoints_and_the_recipe_s_folder_links_to_the_newest(command):
    """Whoever goes on does so where the run was; whoever only tries leaves no trace."""
    recipe = RECIPE.with_name("gaussians.yaml")
    saves = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=runs/a", "--trainer.max_steps=2"]
    saves += ["--trainer.callbacks.save_last=true", "--trainer.callbacks.every_n_train_steps=1"]
    saves += ["--trainer.callbacks.enable_version_counter=false", "--trainer.logger=false"]

    def found():
        saved = {path.parent.name: torch.load(path, weights_only=True) for path in Path("runs").rglob("last.ckpt")}
        return {name: (c["lightning_lead"]["game"]["rule"], c["global_step"]) for name, c in saved.items()}

    def again(*more):
        return command("fit", f"--config={recipe}", *saves, *QUIET, *more)

    again("--game=LEAD")
    again("--game=AlternatingGDA")
    kept = {"a": ("GradientPlay", 2), "version_0": ("LEAD", 2), "version_1": ("GradientPlay", 2)}
    assert found() == kept
    again("--game=ExtraAdam")
    again("--game=AlternatingGDA", "--ckpt_path=runs/a/version_1/last.ckpt", "--trainer.max_steps=3")
    kept |= {"a": ("GradientPlay", 3), "version_1": ("GradientPlay", 3), "version_2": ("ExtraAdam", 2)}
    assert found() == kept
    again("--game=AlternatingGDA", "--ckpt_path=last", "--trainer.max_steps=4")
    kept |= {"a": ("GradientPlay", 4), "version_1": ("GradientPlay", 4)}
    assert found() == kept
    again("--game=LevelK", "--trainer.fast_dev_run=true")
    assert found() == kept
    assert {path.name for path in Path("runs/a").glob("*.ckpt")} == {"last.ckpt", "epoch=0-step=4.ckpt"}


def test_names_of_checkpoints_that_are_removed_are_removed_as_well(command):
    saves = ["--trainer.callbacks=[]", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=runs/a"]
    fit(command, *saves, "--trainer.callbacks.every_n_train_steps=1")
    assert [path.name for path in Path("runs/a").glob("*.ckpt")] == ["epoch=0-step=3.ckpt"]
    assert len(list(Path("runs/a").rglob("*.ckpt"))) == 2


def test_the_last_game_step_is_saved_between_two_saves(command):
    saves = ["--trainer.callbacks=[]", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=runs/a"]
    saves += ["--trainer.callbacks.save_last=true", "--trainer.callbacks.every_n_train_steps=2"]
    fit(command, *saves)
    assert torch.load("runs/a/last.ckpt", weights_only=True)["global_step"] == 3
    (log,) = Path("runs/digits/lightning_logs").iterdir()
    assert Path("runs/a/last.ckpt").resolve().parent == Path("runs/a", log.name).resolve()


def test_checkpoints_of_the_command_line_load_with_weights_only(command):
    fit(command, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=ckpt")
    for path in Path().rglob("*.ckpt"):
        assert "lightning_lead" in torch.load(path, weights_only=True)


OWN_MODULE = '''
import torch
from torch import nn
from lightning_lead import LeadMixin


class Own(LeadMixin):
    """A module of one's own."""

    def __init__(self, width: int = 8, game: str = "LEAD(cross='extrapolated')"):
        super().__init__(game=game)
        self.generator = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 64))
        self.critic = nn.Linear(64, 1)

    def players(self):
        return {"critic": self.critic.parameters(), "generator": self.generator.parameters()}

    def critic_loss(self, batch):
        real, fake = batch[0].flatten(1), self.sample(len(batch[0])).flatten(1)
        return self.critic(fake).mean() - self.critic(real).mean()

    def generator_loss(self, batch):
        return -self.critic(self.sample(len(batch[0])).flatten(1)).mean()

    def sample(self, n):
        return self.generator(torch.randn(n, 3)).unflatten(1, (1, 8, 8))

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Silent(Own):
    """It takes no game."""

    def __init__(self):
        super().__init__()
'''
OWN_RECIPE = """
seed_everything: 0
trainer: {accelerator: cpu, max_steps: 2, logger: false, enable_checkpointing: false, limit_val_batches: 0}
model: {class_path: module_of_ones_own.Own, init_args: {width: 4}}
data: {class_path: lightning_lead.DigitsDataModule, init_args: {batch_size: 64}}
"""


@pytest.fixture
def own_module(command, monkeypatch, tmp_path):
    Path("module_of_ones_own.py").write_text(OWN_MODULE)
    Path("own.yaml").write_text(OWN_RECIPE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("module_of_ones_own", None)


@pytest.mark.parametrize("way", ["recipe", "argument", "whole"])
def test_a_module_of_one_s_own_is_named_by_its_class(own_module, command, way):
    data = [
        "--seed_everything=0",
        "--data=lightning_lead.DigitsDataModule",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
    ]
    data += ["--trainer.enable_checkpointing=false", "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    arguments = {
        "recipe": ["--config", "own.yaml"],
        "argument": [*data, "--model.class_path=module_of_ones_own.Own", "--model.init_args.width=4"],
        "whole": [*data, "--model", "module_of_ones_own.Own", "--model.width=4"],
    }[way]
    fitted = command("fit", *arguments, "--game=OptimisticAdam", *QUIET)
    assert type(fitted.model).__name__ == "Own"
    assert fitted.model.generator[0].out_features == 4
    assert fitted.model.game.rule.name == "OptimisticAdam"
    assert fitted.trainer.global_step == 2


def test_a_file_with_the_settings_of_a_gan_is_no_class(command, tmp_path):
    Path("model.yaml").write_text("generator_lr: 0.5")
    fitted = fit(command, "--model=model.yaml", "--trainer.max_steps=1", "--trainer.callbacks=[]")
    assert type(fitted.model) is LeadGANModule
    assert fitted.trainer.optimizers[0].param_groups[1]["lr"] == 0.5


def test_a_module_that_takes_no_game_is_told_so(own_module, command):
    arguments = ["--config=own.yaml", "--model=module_of_ones_own.Silent", *QUIET]
    with pytest.raises(
        ConfigurationError, match=r"Cannot play --game=ExtraAdam because .*Silent takes no argument game"
    ):
        command("fit", *arguments, "--game=ExtraAdam")
    assert command("fit", *arguments).model.game.rule.name == "LEAD"


def test_a_recipe_of_ones_own_module_is_compared(own_module, command, monkeypatch):
    """By an interpreter of its own, as outside of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()) + ":" + os.environ.get("PYTHONPATH", ""))
    settings = ["--seeds", "0", "--max_steps", "2", "--every", "1", "--output", "out"]
    assert command("compare", "--config", "own.yaml", "--games", "OptimisticAdam", *settings) == 0
    assert "OptimisticAdam" in Path("out/table.md").read_text()

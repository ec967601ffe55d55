"""A stranger's recipe: it builds parts of a run, and runs nothing else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_lead import ConfigurationError
from lightning_lead.cli import main
from lightning_lead.recipe import TRUSTED, build

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "gaussians.yaml"

MINE = '''
import torch
from torch import nn

class Objective:
    """No class of anybody's."""
    def generator_loss(self, fake_logits):
        return fake_logits.square().mean()
    def discriminator_loss(self, real_logits, fake_logits):
        return real_logits.square().mean() + fake_logits.mean()

class Plain:
    """Nothing that a run knows."""

def identity() -> nn.Module:
    return nn.Identity()

def unsaid():
    return nn.Identity()
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_untrusted.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)


def built(tmp_path: Path, recipe: dict[str, Any], *arguments: str) -> Any:
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(recipe))
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    return build([f"--config={RECIPE}", f"--config={tmp_path / 'more.yaml'}", *quiet, *arguments])


def linear(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 2, **arguments}}


PLACES = {
    "objective": lambda payload: {"model": {"objective": payload}},
    "an argument without a type": lambda payload: {"model": {"augment": linear(device=payload)}},
    "in a callback": lambda payload: {
        "trainer": {
            "callbacks": [
                {
                    "class_path": "lightning_lead.GenerativeMetrics",
                    "init_args": {"extractor": "digits", "reference": payload},
                }
            ]
        }
    },
}


PAYLOADS = {
    "os.mkdir": lambda made: {"path": made},
    "torchvision.utils.save_image": lambda made: {"tensor": [0.5], "fp": made, "format": "png"},
    "torch.utils.tensorboard.SummaryWriter": lambda made: {"log_dir": made},
    "lightning_lead.compare.compare": lambda made: {"arguments": [f"--output={made}"]},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.filterwarnings("ignore:[\\s\\S]*denied by the")  # jsonargparse 5 will refuse it as well
def test_a_recipe_runs_nothing_that_is_no_part_of_a_run(place: str, kind: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    payload = {"class_path": kind, "init_args": PAYLOADS[kind](str(made))}
    with pytest.raises(ConfigurationError, match=r"Cannot build [\w.]* because it is no part of a run"):
        built(tmp_path, PLACES[place](payload))
    assert not made.exists()


@pytest.mark.parametrize(
    "path",
    [
        "lightning_lead.objectives.RelativisticPairing",
        "mine_untrusted.Objective",
        "lightning_lead.objectives.NonSaturating",
    ],
)
@pytest.mark.usefixtures("mine")
def test_an_objective_may_be_anybody_s(path: str, tmp_path: Path) -> None:
    objective = built(tmp_path, {"model": {"objective": {"class_path": path}}}).model.objective
    assert type(objective).__name__ == path.rpartition(".")[2]


@pytest.mark.usefixtures("mine")
def test_a_function_is_what_it_says_that_it_returns(tmp_path: Path) -> None:
    augment = built(tmp_path, {"model": {"augment": {"class_path": "mine_untrusted.identity"}}}).model.augment
    assert type(augment).__name__ == "Identity"
    recipe = {"model": {"augment": linear(dtype={"class_path": "mine_untrusted.unsaid"})}}
    with pytest.raises(ConfigurationError, match=f"set {TRUSTED}=mine_untrusted if you know what it does"):
        built(tmp_path, recipe)


@pytest.mark.usefixtures("mine")
def test_packages_are_trusted_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"model": {"augment": linear(dtype={"class_path": "mine_untrusted.Plain"})}}
    with pytest.raises(ConfigurationError, match="Cannot build mine_untrusted.Plain"):
        built(tmp_path, recipe)
    monkeypatch.setenv(TRUSTED, "another,mine_untrusted")
    with pytest.raises(Exception, match="Linear") as met:  # torch has no such dtype
        built(tmp_path, recipe)
    assert not isinstance(met.value, ConfigurationError)


@pytest.mark.parametrize("address", ["http://example.org/a.ckpt", "https://example.org/a.ckpt"])
def test_a_checkpoint_is_not_loaded_from_an_address(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Cannot load a checkpoint from an address.*download it"):
        main(["fit", f"--config={RECIPE}", f"--ckpt_path={address}"])


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("command", ["fit", "validate", "evaluate"])
def test_a_checkpoint_is_read_and_not_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made, file = tmp_path / "made", tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "global_step": 0, "more": Payload(made)}, file)
    given = f"--checkpoint={file}" if command == "evaluate" else f"--ckpt_path={file}"
    with pytest.raises((pickle.UnpicklingError, ConfigurationError)):
        main([command, f"--config={RECIPE}", given])
    assert not made.exists()
    torch.load(file, weights_only=False)  # the control: it would have run
    assert made.exists()

"""The image recipes are what they say, and each method of their tables plays them."""

from __future__ import annotations

import math
import re
import sys

import pytest
import torch
from recipe_kit import NARROW, QUIET, RECIPES, synthetic

from lightning_lead.cli import main
from lightning_lead.compare._plan import plan_runs, read_entries
from lightning_lead.compare.worker import run as run_here
from lightning_lead.engine.named_rules import find_game, game_names
from lightning_lead.objectives import adversarial_objective

SNGAN32 = {"generator": 4276739, "discriminator": 1053824, "objective": "hinge", "steps": 5, "batch": 320, "fakes": 128}
SNGAN32 |= {"betas": (0.0, 0.9), "decay": (1.0, 0.0, 100_000)}
PUBLISHED = {
    "cifar10_sngan32": SNGAN32,
    "cifar10_sngan32_conditional": SNGAN32 | {"generator": 4304387, "discriminator": 1055104},
    "stl10_sngan48": SNGAN32 | {"generator": 4878083, "discriminator": 19542720},
    "cifar10_dcgan": {
        "generator": 12140035,
        "discriminator": 10517761,
        "objective": "non_saturating",
        "steps": 1,
        "batch": 64,
        "fakes": None,
        "betas": (0.5, 0.999),
        "decay": None,
    },
    "cifar10_ours": SNGAN32 | {"batch": 640, "fakes": 256, "decay": (1.0, 0.0, 300_000)},
}
SNGAN = ["--data.batch_size=8", "--model.discriminator_steps=2", "--model.generator_batch_size=4", *NARROW["sngan"]]
SMALL = {  # batches
    "cifar10_sngan32": SNGAN,
    "cifar10_dcgan": ["--data.batch_size=8", *NARROW["dcgan"]],
}


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-lead"])
    return tmp_path


@pytest.fixture
def unsaved(monkeypatch):
    """Without the file of all settings, and without those in the checkpoint, which take longer than a small fit."""
    monkeypatch.setattr("pytorch_lightning.cli.SaveConfigCallback.setup", lambda *_, **__: None)
    monkeypatch.setattr("pytorch_lightning.cli.LightningCLI.config_dump", {}, raising=False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipe_has_the_published_numbers(name, here):
    wanted = PUBLISHED[name]
    built = main([f"--config={synthetic(name, here)}", *QUIET], run=False)
    model, data = built.model, built.datamodule
    for player in ("generator", "discriminator"):
        assert sum(p.numel() for p in getattr(model, player).parameters()) == wanted[player]
    assert type(model.objective) is type(adversarial_objective(wanted["objective"]))
    assert (model.discriminator_steps, model.generator_batch_size) == (wanted["steps"], wanted["fakes"])
    noise = 0.0 if name == "cifar10_dcgan" else 1 / 128  # which the authors' ResNet code adds
    assert (data.batch_size, data.noise, data.flip) == (wanted["batch"], noise, name == "cifar10_ours")
    made = model.configure_optimizers()
    made = made if isinstance(made, dict) else {"optimizer": made}
    assert isinstance(made["optimizer"], torch.optim.Adam)
    groups = made["optimizer"].param_groups
    assert [(group.get("initial_lr", group["lr"]), group["betas"]) for group in groups] == [(2e-4, wanted["betas"])] * 2
    decay = made["lr_scheduler"]["scheduler"] if "lr_scheduler" in made else None
    assert (decay and (decay.start_factor, decay.end_factor, decay.total_iters)) == wanted["decay"]
    assert built.trainer.max_steps == (decay.total_iters if decay else 100_000)
    assert model.game.rule.name == "LEAD"
    callbacks = [type(c).__name__ for c in built.trainer.callbacks]
    assert ("GeneratorEMA" in callbacks) == (name == "cifar10_ours")
    assert "Throughput" in callbacks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "games"),
    [
        ("cifar10_sngan32", "cifar10_games"),
        ("cifar10_dcgan", "cifar10_dcgan_games"),
    ],
)
def test_every_method_of_the_table_plays_the_recipe(name, games, here, unsaved):
    """As `compare` runs them, but in this process; of five discriminator steps, two."""
    entries = read_entries([], RECIPES / f"{games}.yaml")
    assert [entry.label.split()[0].strip(",") for entry in entries] == [
        "Adam",
        "LEAD-Adam",
        "LEAD-Adam",
        "LEAD-Adam",
        *(["LEAD-Adam"] if games == "cifar10_games" else []),  # by the authors' script
        "ExtraAdam",
        "ODE-GAN",
    ]
    extra = [*SMALL[name], "--trainer.max_steps=2", "--every=2", "--trainer.accelerator=cpu"]
    for run in plan_runs(entries, synthetic(name, here), [0], here / "out", extra):
        result = run_here(run.folder, run.fingerprint, list(run.arguments))
        assert result["steps"] == 2, run.entry.label
        assert result["history"][-1]["values"]["fid"] > 0
        assert result["skipped_turns"] == 0


TABLES = [(name, row) for name in ("digits", "gaussians") for row in read_entries([], RECIPES / f"{name}_games.yaml")]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "row"), TABLES, ids=[f"{name}: {row.slug}" for name, row in TABLES])
def test_every_row_of_the_small_tables_plays_its_recipe(recipe, row, here, unsaved):
    """As `compare` runs it, but in this process, and scored by fewer samples."""
    short = ["--data.batch_size=16", "--trainer.max_steps=2", "--every=2"]
    text = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    config = here / f"{recipe}.yaml"
    config.write_text(re.sub(r"(num_samples:) 2000\b", r"\1 200", text), encoding="utf-8")
    (run,) = plan_runs([row], config, [0], here / "out", short)
    result = run_here(run.folder, run.fingerprint, list(run.arguments))
    (last,) = result["history"]
    assert (last["step"], result["steps"], result["skipped_turns"]) == (2, 2, 0)
    assert all(math.isfinite(value) for value in last["values"].values())


def test_the_small_tables_leave_no_rule_out():
    wanted = {find_game(name).rule.name for name in game_names()}
    for recipe in ("digits", "gaussians"):
        assert {find_game(row.game).rule.name for table, row in TABLES if table == recipe} == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10_sngan32_conditional", "stl10_sngan48", "cifar10_ours"])
def test_the_other_recipes_make_their_steps(name, here):
    small = ["--data.batch_size=20", "--model.generator_batch_size=8", *NARROW["sngan"], "--trainer.max_steps=2"]
    fitted = main(["fit", f"--config={synthetic(name, here)}", *small, *QUIET])
    assert fitted.trainer.global_step == 2
    structure = fitted.model._structure
    assert structure.chained
    assert (structure.not_piecewise_linear is None) == (name != "cifar10_ours")  # whose form differentiates once
    assert (fitted.model.sample_labels(4) is not None) == ("conditional" in name)


def test_the_authors_own_couplings_are_among_the_methods_and_in_the_sweep():
    for file in ("cifar10", "sweep_coupling"):
        (entry,) = (e for e in read_entries([], RECIPES / f"{file}_games.yaml") if "authors" in e.label)
        rule = find_game(entry.game).rule
        assert (rule.coupling, rule.cross, rule.form) == (
            {"discriminator": 0.5, "generator": 0.01},
            "exact",
            "opponent",
        )
        assert entry.overrides == ("--model.discriminator_lr=0.0001",)


def test_the_sweep_of_a_has_both_forms_of_every_value():
    entries = read_entries([], RECIPES / "sweep_coupling_games.yaml")
    assert entries[0].game == "AlternatingGDA"  # a = 0
    swept = [(form, a) for form in ("exact", "difference") for a in ("0.1", "0.3", "1", "3", "10")]
    assert [entry.label for entry in entries[1:-1]] == [f"{form}, a = {a}" for form, a in swept]
    for entry, (form, a) in zip(entries[1:-1], swept, strict=True):
        rule = find_game(entry.game).rule
        assert (rule.coupling, rule.cross) == (float(a), form)

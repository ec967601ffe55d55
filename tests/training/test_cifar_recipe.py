"""The SNGAN recipe for CIFAR-10, narrow and on a few pictures: 30 game steps, resumed in the middle, and tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recipe_kit import NARROW, QUIET, synthetic, write_store

from lightning_lead.callbacks._run_folders import RunFolders
from lightning_lead.cli import main

STEPS, MIDDLE = 30, 25  # 20 game steps an epoch: the checkpoint is from the middle of one
SMALL = [*NARROW["sngan"], "--data.batch_size=10", "--model.generator_batch_size=2", f"--trainer.max_steps={STEPS}"]
SMALL += [f"--model.scheduler.init_args.total_iters={STEPS}", *QUIET]


def fit(folder: Path, *more: str, stored: Path | None = None, saved: int = MIDDLE):
    """The recipe as a user runs it, with a score every 100 steps and a checkpoint of one step."""
    folder.mkdir()
    recipe = synthetic(
        "cifar10_sngan32",
        folder,
        ("steps: 5000\n", "steps: 15\n"),
        ("steps: 500\n", f"steps: {saved}\n"),
        data=stored is None,
        default_root_dir=str(folder),
        save_dir=str(folder),
        dirpath=str(folder),
    )
    data = ["--data.num_images=200"] if stored is None else [f"--data.folder={stored}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning-lead"])
        patch.setattr(RunFolders, "on_train_end", lambda *_: None)  # as of a run that was killed after its last save
        return main(["fit", f"--config={recipe}", *SMALL, *data, *more])


def everything(built):
    """All that a run is made of at its end."""
    optimizer = built.trainer.optimizers[0].state_dict()
    anchors = built.model.game.state_dict()["state"]["anchor"]
    return [
        *built.model.state_dict().values(),
        *(t for entry in optimizer["state"].values() for t in entry.values()),
        *(t for vector in anchors.values() for t in vector),
        torch.tensor([group["lr"] for group in optimizer["param_groups"]]),
    ]


def scores(built):
    (metrics,) = [c for c in built.trainer.callbacks if hasattr(c, "history")]
    return [(record["step"], record["values"]["fid"]) for record in metrics.history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe") / "whole"
    built = fit(folder)
    return SimpleNamespace(folder=folder, built=built, state=everything(built))


@pytest.mark.slow
def test_it_makes_its_steps_and_its_scores(whole):
    assert whole.built.trainer.global_step == STEPS
    assert [step for step, _ in scores(whole.built)] == [15, 30]
    assert all(fid > 0 for _, fid in scores(whole.built))
    assert whole.built.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert whole.built.model.game.skipped == 0
    assert all(t.isfinite().all() for t in whole.state if t.is_floating_point())
    checkpoint = torch.load(whole.folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == MIDDLE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # each run of the recipe gets a folder of its own
def test_resumed_in_the_middle_of_an_epoch_it_ends_bitwise_the_same(whole, tmp_path):
    again = fit(tmp_path / "again", f"--ckpt_path={whole.folder / 'last.ckpt'}")
    state = everything(again)
    assert again.trainer.global_step == STEPS
    assert len(state) == len(whole.state)
    assert all(torch.equal(a, b) for a, b in zip(state, whole.state, strict=True))
    assert scores(again) == scores(whole.built)
    middle = torch.load(whole.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(middle["generator.stem.weight"], again.model.generator.stem.weight)  # it did go on


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_it_reads_the_store_and_resumes_from_it(tmp_path):
    """The recipe's own data module, on a folder as `lightning-lead fetch cifar10` leaves it."""
    store = write_store(tmp_path / "cifar10")
    straight = fit(tmp_path / "straight", "--trainer.max_steps=8", stored=store, saved=5)
    last = tmp_path / "straight" / "last.ckpt"
    again = fit(tmp_path / "again", "--trainer.max_steps=8", f"--ckpt_path={last}", stored=store, saved=5)
    assert torch.load(last, weights_only=True)["global_step"] == 5
    assert straight.datamodule.reference_images().shape == (400, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(everything(again), everything(straight), strict=True))


@pytest.mark.download
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")  # savers have another rhythm here
def test_real_inception_judges_a_checkpoint(whole, tmp_path):
    """KID, because FID wants more samples than the network has features."""
    settings = {"extractor": "inception", "metrics": "[kid]", "num_samples": "48", "dirpath": str(tmp_path)}
    recipe = synthetic("cifar10_sngan32", tmp_path, default_root_dir=str(tmp_path), save_dir=str(tmp_path), **settings)
    recipe.write_text(recipe.read_text().replace("metrics: [kid]", "metrics: [kid]\n        kid_subset_size: 24"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning-lead"])
        few = ["--data.num_images=48", "--trainer.limit_test_batches=1"]
        tested = main(["test", f"--config={recipe}", *SMALL, *few, f"--ckpt_path={whole.folder / 'last.ckpt'}"])
    (path,) = tmp_path.rglob("generative_metrics.json")
    (record,) = json.loads(path.read_text())
    assert record["step"] == MIDDLE
    assert record["values"]["kid"] == pytest.approx(float(tested.trainer.callback_metrics["kid"]), rel=1e-6)
    assert record["values"]["kid"] > 0
    assert record["protocol"]["num_samples"] == 48

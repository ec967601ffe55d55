"""A checkpoint of other optimizers, or one of which something is missing, is refused before anything moves."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_gan, tiny_loader, tiny_trainer

from lightning_lead import CheckpointMismatchError, LEADStrategy

OPTIMIZERS = {
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01),
    "NAdam": lambda groups: torch.optim.NAdam(groups, lr=0.01),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.5),
    "plain SGD": lambda groups: torch.optim.SGD(groups, lr=0.01),
}


def fit(optimizer, steps, *, save=None, resume=None):
    torch.manual_seed(0)
    module = tiny_gan(optimizer=OPTIMIZERS[optimizer], game=LEADStrategy(1.0))
    trainer = tiny_trainer(steps)
    trainer.fit(module, tiny_loader(24), ckpt_path=resume)
    if save is not None:
        trainer.save_checkpoint(save)
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for name in OPTIMIZERS:
        fit(name, 4, save=folder / f"{name}.ckpt")
    return folder


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_other_optimizers_are_refused_by_name(name, saved, became):
    for other in OPTIMIZERS.keys() - {name}:
        if {name, other} == {"SGD", "plain SGD"}:
            continue  # of one kind; the file says which settings it goes on with, as Lightning has it
        kinds = [each.removeprefix("plain ") for each in (other, name)]
        with pytest.raises(CheckpointMismatchError, match=r"other optimizers.*{} \(got {}\)".format(*kinds)):
            fit(name, 6, resume=saved / f"{other}.ckpt")
        became("checkpoint of something else", "refused by name")
    fit(name, 6, resume=saved / f"{name}.ckpt")


def state(checkpoint):
    return checkpoint["optimizer_states"][0]["state"]


EDITS = {
    "a state": (lambda c: state(c).pop(2), "states of Adam are missing"),
    "all states": (lambda c: state(c).clear(), "states of Adam are missing"),
    "the optimizer": (lambda c: c.update(optimizer_states=[]), "states of Adam are missing"),
    "a moment": (lambda c: state(c)[1].pop("exp_avg_sq"), "not of the shapes that were saved"),
    "a part of a moment": (
        lambda c: state(c)[0].update(exp_avg=torch.zeros(2, 2)),
        "not of the shapes that were saved",
    ),
    "the order": (lambda c: c["optimizer_states"][0]["param_groups"].reverse(), "not of the shapes that were saved"),
    "counts of batches": (lambda c: c.pop("loops"), "is of game step 4.*got step 0"),
    "the rule's memory": (lambda c: c["lightning_lead"]["game"].update(state=None), "no memory of LEAD"),
    "the game": (lambda c: c.pop("lightning_lead"), "holds no game"),
}


@pytest.mark.parametrize("missing", EDITS)
def test_what_is_missing_is_named(missing, saved, tmp_path, became):
    edit, said = EDITS[missing]
    checkpoint = torch.load(saved / "Adam.ckpt", weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, tmp_path / "edited.ckpt")
    with pytest.raises(CheckpointMismatchError, match=f"Cannot resume because .*{said}"):
        fit("Adam", 6, resume=tmp_path / "edited.ckpt")
    became("checkpoint of something else", "refused by name")

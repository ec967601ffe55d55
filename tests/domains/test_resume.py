"""A run that was stopped and resumed is the uninterrupted run, bit for bit, weights, players' memories and records."""

from __future__ import annotations

from typing import Any

import domain_kit as kit
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from lightning_lead import (
    ColouredDigitsDataModule,
    DANNModule,
    DomainAccuracy,
    ERMModule,
    GroupDROModule,
    IRMGamesModule,
    IRMv1Module,
    MoonsDataModule,
)
from lightning_lead.networks import MLP

pytest.importorskip("sklearn")
STEPS, STOP = 8, 3
ADAM: dict[str, Any] = {"optimizer": lambda groups: torch.optim.Adam(groups, betas=(0.5, 0.9)), "learning_rates": 0.01}


def _digits() -> ColouredDigitsDataModule:
    return ColouredDigitsDataModule(batch_size=160, seed=2)  # six batches in an epoch


def _noisy(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), MLP(inputs, outputs, width=8))


RUNS = {
    "DANN": lambda: (
        DANNModule(_noisy(2, 6), MLP(6, 1, depth=0), MLP(6, 1, width=8), schedule_steps=5, **ADAM),
        MoonsDataModule(batch_size=80, seed=2),
    ),
    "group DRO": lambda: (GroupDROModule(_noisy(128, 1), 2, step=0.5), _digits()),
    "IRM games": lambda: (IRMGamesModule([_noisy(128, 1), _noisy(128, 1)], bound=0.1, **ADAM), _digits()),
    "IRMv1": lambda: (IRMv1Module(_noisy(128, 1), anneal_steps=4, **ADAM), _digits()),
    "ERM": lambda: (ERMModule(_noisy(128, 1), **ADAM), _digits()),
}


def fit(name: str, folder, *, ckpt=None, seed: int = 1):
    torch.manual_seed(seed)
    module, data = RUNS[name]()
    for network in getattr(module, "networks", []):  # start inside of the box
        for parameter in network.parameters():
            parameter.data.clamp_(-0.1, 0.1)
    accuracy = DomainAccuracy(every_n_steps=2)
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename=f"{seed}-{{step}}")
    trainer = kit.trainer(STEPS, callbacks=[accuracy, saver], enable_checkpointing=True)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    states = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
    tensors = [t for state in states for entry in state.values() for t in entry.values() if isinstance(t, torch.Tensor)]
    return [*module.state_dict().values(), *tensors], accuracy.history


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_whole_run(name: str, tmp_path) -> None:
    expected, history = fit(name, tmp_path)
    got, again = fit(name, tmp_path, ckpt=tmp_path / f"1-step={STOP}.ckpt", seed=77)
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert again == history
    assert [record["step"] for record in history] == [2, 4, 6, 8]
    other, _ = fit(name, tmp_path, seed=77)  # the control
    assert not all(torch.equal(a, b) for a, b in zip(other, expected, strict=True))

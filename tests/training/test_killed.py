"""A run that is killed with no warning, resumed from its last checkpoint, ends where the uninterrupted one ends."""

from __future__ import annotations

import signal
from pathlib import Path

import processes
import pytest
import torch

VICTIM = Path(__file__).with_name("victim.py")


def run(folder, *arguments):
    return processes.run([VICTIM, folder, *arguments], timeout=120)


def leaves(value, path=""):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from leaves(item, f"{path}/{key}")


@pytest.mark.slow
def test_weights_optimizer_displacement_and_average_are_bitwise_the_same(tmp_path):
    assert run(tmp_path / "whole", 11).returncode == 0
    killed = run(tmp_path / "killed", 11, 6)  # in the second epoch of four batches
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["global_step"] == 6
    resumed = run(tmp_path / "killed", 11)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    whole, again = (torch.load(tmp_path / f / "last.ckpt", weights_only=True) for f in ("whole", "killed"))
    for part in ("state_dict", "optimizer_states", "lightning_lead", "callbacks"):
        expected, got = dict(leaves(whole[part])), dict(leaves(again[part]))
        assert expected.keys() == got.keys()
        assert expected, part
        for path, tensor in expected.items():
            assert torch.equal(tensor, got[path]), path
    assert whole["global_step"] == again["global_step"] == 11

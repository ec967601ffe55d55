"""A run that is killed with no warning, resumed from its last checkpoint, ends where the uninterrupted one ends."""

from __future__ import annotations

import signal
from pathlib import Path

import processes
import pytest
import torch
from bitwise import differing

VICTIM = Path(__file__).with_name("victim.py")


def run(folder, *arguments):
    return processes.run([VICTIM, folder, *arguments], timeout=120)


@pytest.mark.slow
def test_weights_optimizer_displacement_and_average_are_bitwise_the_same(tmp_path):
    assert run(tmp_path / "whole", 11).returncode == 0
    killed = run(tmp_path / "killed", 11, 6)  # in the second epoch of four batches
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["global_step"] == 6
    resumed = run(tmp_path / "killed", 11)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    whole, again = (torch.load(tmp_path / f / "last.ckpt", weights_only=True) for f in ("whole", "killed"))
    for part in ("state_dict", "optimizer_states", "lightning_lead"):
        assert whole[part]
        assert not differing(whole[part], again[part]), part
    assert not differing(*(checkpoint["callbacks"]["GeneratorEMA"] for checkpoint in (whole, again)))
    assert whole["global_step"] == again["global_step"] == 11

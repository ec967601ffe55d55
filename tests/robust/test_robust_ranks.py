"""Two gloo processes train against attacks, and measure accuracies, as one process with the joint batch does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import processes
import pytest
import torch

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("robust_ranks", HERE / "robust_ranks.py")
ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks)

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    output = tmp_path_factory.mktemp("ranks") / "result"
    processes.run_ranks(2, [HERE / "robust_ranks.py", output], timeout=240)
    return [torch.load(f"{output}.{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:.*in eval mode.*:UserWarning")
def test_weights_equal_those_of_one_process(together):
    for each in ranks.CONFIGURATIONS:
        alone = ranks.train(*each, world_size=1, rank=0)
        for result in together:
            assert (result["weights"][each] - alone).abs().max() < 1e-12, each
    assert (together[0]["unreduced"] - ranks.train("pgd", "plain", world_size=1, rank=0)).abs().max() > 1e-4


def test_accuracies_equal_those_of_one_process(together, tmp_path):
    alone = ranks.measure(tmp_path, world_size=1, rank=0)
    assert [record["step"] for record in alone["history"]] == [2, 4, 4]
    assert alone["history"][0]["protocol"] == 40
    assert together[0]["accuracy"] == together[1]["accuracy"]
    for ours, theirs in zip(together[0]["accuracy"]["history"], alone["history"], strict=True):
        assert ours == theirs
    assert together[0]["accuracy"]["returned"] == pytest.approx(alone["returned"])

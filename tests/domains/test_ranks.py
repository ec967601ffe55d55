"""Two ranks are one process with the joint batch, for each module and for the accuracy of domains."""

from __future__ import annotations

from pathlib import Path

import domain_kit as kit
import domain_ranks
import processes
import pytest
import torch

SCRIPT = Path(__file__).with_name("domain_ranks.py")
pytestmark = [pytest.mark.ddp, pytest.mark.slow]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    output = tmp_path_factory.mktemp("ranks") / "result"
    processes.run_ranks(2, [SCRIPT, output], timeout=180)
    return [torch.load(f"{output}.{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", [*kit.MODULES, "exact"])
def test_two_ranks_are_one_process(name: str, ranks) -> None:
    alone = domain_ranks.exact(1, 0) if name == "exact" else domain_ranks.trained(name, 1, 0)
    for found in ranks:
        # a mean of two means is another order of additions
        torch.testing.assert_close(found[name], alone, rtol=0, atol=1e-12)


def test_without_the_reductions_they_are_not(ranks) -> None:
    for control, name in (("own penalty", "IRMv1"), ("unreduced", "ERM")):
        alone = domain_ranks.trained(name, 1, 0)
        assert (ranks[0][control] - alone).abs().max() > 1e-6, control


def test_accuracies_are_those_of_one_process(ranks) -> None:
    alone = domain_ranks.scored(1)
    assert [record["step"] for record in alone] == [2, 4]
    for found in ranks:
        assert found["scored"] == alone

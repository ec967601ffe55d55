"""A fault of one rank ends all of them, with the same reason, or changes nothing; nobody hangs or drifts in silence."""

from __future__ import annotations

import itertools
from pathlib import Path

import processes
import pytest
import torch
from pairs import some, thorough

pytestmark = pytest.mark.ddp

SCRIPT = Path(__file__).with_name("ranks_at_fault.py")
POINTS = ("fit start", "first step", "mid-run", "between turns", "validation", "checkpoint")
WITHOUT_A_WORD = "ended without a word"
KINDS, LIMIT = ("plain", "exact", "extrapolated"), 60

# what ends a rank, and what the others say of it
ENDS = {
    "error": "failed: ValueError: a fault was put here",
    "sys.exit": "failed: SystemExit: a fault was put here",
    "interrupt": "failed: KeyboardInterrupt",
    "SIGTERM": "failed: SIGTERM",
    "os._exit": WITHOUT_A_WORD,
    "SIGKILL": WITHOUT_A_WORD,
}
# what one rank does otherwise from some point on, and in what the ranks then differ
CHANGES = {
    "frozen layer": "discriminator.0.weight",
    "frozen player": "generator.0.weight",
    "other rule": "coupling=2.0",
    "other steps": "turns",
    "other accumulation": "accumulate",
    "other rate": "lr",
    "other weights": "norm of generator.0.weight",
}
# the same from the start, or with the data
STARTS = {
    "other shape": "discriminator.0.weight",
    "other dtype": "float32",
    "other name": "parameter generator.",
    "other layer": "discriminator.1",
    "other optimizer": "SGD",
    "other clip": "clip",
    "fewer batches": "num_training_batches",
    "data": "the last batch of the epoch",
    "loader": "failed: OSError: a fault was put here",
}
# which take longer
WAITS = {"stop": "validation", "checkpoint alone": "checkpoint", "caught": "failed: ArithmeticError"}


def spread(faults, points):
    """Each fault at each point, of all kinds of run, of the first rank and the last one, of two ranks and three."""
    turn = itertools.cycle(itertools.product((2, 3), KINDS, ("last", "first")))
    return [(fault, said, point, *next(turn)) for fault, said in faults.items() for point in points]


# by which one rank plays by another form than the rest; without one, the fit ends there
ALONE = [("other derivative", "fallback='difference'", "any", 2, "either form", place) for place in ("first", "last")]
FATAL = ALONE + spread(ENDS, POINTS) + spread(CHANGES, POINTS[:3]) + spread(STARTS, ["any", "again"])
LONG = spread(WAITS, ["mid-run"] * 2)


def end(fault, kind, point, who, count, folder, *, shares=None):
    return processes.end_ranks(count, [SCRIPT, fault, kind, point, who, shares or count, folder], timeout=LIMIT)


@pytest.mark.parametrize(
    "case", [*some(FATAL, 5), *(LONG if thorough() else ())], ids=lambda case: " ".join(map(str, case))
)
def test_all_ranks_end_and_name_the_one_at_fault(case, became, tmp_path):
    fault, said, point, count, kind, place = case
    who = {"first": 0, "last": count - 1}[place]
    if (fault, point) == ("SIGTERM", "fit start"):  # before Lightning takes the signal over
        said = WITHOUT_A_WORD
    ends = end(fault, kind, point, who, count, tmp_path)
    outputs = "\n".join(output[-3000:] for _, output in ends)
    assert all(status is not None for status, _ in ends), f"not ended after {LIMIT} s\n{outputs}"
    assert all(status for status, _ in ends), f"{[status for status, _ in ends]}\n{outputs}"
    assert not list(tmp_path.glob("*.pt"))  # which a whole fit leaves
    for rank, (_, output) in enumerate(ends):
        last = [line for line in output.splitlines() if "Cannot go on because" in line]
        if rank != who:
            assert last, outputs
            assert f"rank {who}" in last[-1], outputs
            assert said in last[-1], outputs
            if fault == "caught":  # its process lives, so no connection was closed
                assert f"rank {rank}: Cannot go on because" in last[-1]
    became(f"rank: {fault}", "all ended, rank and reason named")


# (fault, point, whether all ranks have it)
HARMLESS = [
    ("nan", "any", False),
    ("other seed", "any", False),
    ("frozen layer", "mid-run", True),
    ("frozen player", "mid-run", True),
    ("other rule", "mid-run", True),
    ("other steps", "mid-run", True),
    ("other accumulation", "first step", True),
    ("other rate", "mid-run", True),
    ("slow", "mid-run", False),
    ("slow", "validation", False),
    ("slow", "checkpoint", False),
]
PLAYED = [(*case, kind, count) for k, case in enumerate(HARMLESS) for kind in KINDS for count in (2 + k % 2,)]


@pytest.mark.parametrize("case", some(PLAYED, 2), ids=lambda case: " ".join(map(str, case)))
def test_what_all_ranks_do_and_what_one_may_do_leaves_the_weights_of_one_process(case, became, tmp_path):
    fault, point, everywhere, kind, count = case
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
    ends = end(fault, kind, point, -1 if everywhere else count - 1, count, together)
    assert [status for status, _ in ends] == [0] * count, "\n".join(output[-3000:] for _, output in ends)
    # rank 0's weights are everybody's; where one loss is no number, the mean is none
    same = "none" if fault in ("other seed", "slow") else fault
    (one,) = end(same, kind, point, -1, 1, alone, shares=count)
    assert one[0] == 0, one[1]
    expected = torch.load(alone / "0.pt")
    assert (expected["skipped"] > 0) == (fault == "nan")
    for rank in range(count):
        found = torch.load(together / f"{rank}.pt")
        assert found["skipped"] == expected["skipped"]
        assert (found["weights"] - expected["weights"]).abs().max() < 1e-10
    became(f"ranks: {fault}", "went on, same weights as one process")

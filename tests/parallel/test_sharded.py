"""Several gloo processes that hold parts of parameters, by FSDP2, play the same game as one process that holds all."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import processes
import pytest
import torch
from filelock import FileLock

from lightning_lead._errors import ConfigurationError

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("sharded", HERE / "sharded.py")
sharded = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sharded)

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


@pytest.fixture(scope="module")
def alone():
    games = {name: {"game": name, "steps": 2, **settings} for name, settings in sharded.allowed_games().items()}
    every = sharded.CONFIGURATIONS | sharded.MORE | games
    return {name: sharded.train(1, 0, **settings) for name, settings in every.items()}


def check_equal(run, expected, name):
    limit = 1e-6 if "float32" in name else 1e-12
    for what in ("weights", "average"):
        assert (run[what] - expected[what]).abs().max() < limit, (name, what)


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the workers share, so that one plays for all of them
    output = folder / f"sharded{request.param}"
    results = [Path(f"{output}.{rank}") for rank in range(request.param)]
    with FileLock(f"{output}.lock"):
        if not all(path.exists() for path in results):
            for name in sharded.RESUMED:
                settings = sharded.CONFIGURATIONS[name] | {"steps": sharded.SAVED}
                sharded.train(1, 0, save=f"{output}.one.{name}.ckpt", **settings)
            processes.run_ranks(request.param, [HERE / "sharded.py", output], timeout=240)
    return output, [torch.load(path, weights_only=True) for path in results]


def test_weights_and_averages_equal_those_of_one_process(alone, together):
    """Under every rule that differentiates once; resumed from a file, a folder, and a file of one process as well."""
    for result in together[1]:
        assert len(result["runs"]) >= len(sharded.CONFIGURATIONS) + 2 * len(sharded.RESUMED) + 1
        for name, run in result["runs"].items():
            check_equal(run, alone[name.partition(" from a ")[0]], name)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(together):
    for result in together[1]:
        for name in sharded.RESUMED:
            assert torch.equal(result["runs"][f"{name} from a file"]["weights"], result["runs"][name]["weights"]), name
            assert torch.equal(result["runs"][name]["weights"], together[1][0]["runs"][name]["weights"]), name


def test_parts_of_a_rule_s_memory_are_offloaded_where_that_is_asked_for(together):
    """The other tests look at what comes of it."""
    for result in together[1]:
        for name in sharded.CONFIGURATIONS:
            asked = "offload=True" in sharded.CONFIGURATIONS[name]["game"]
            assert bool(result["runs"][name]["offloaded"]) == asked, name


def test_a_checkpoint_of_shards_opens_in_one_process(alone, together):
    output, _ = together
    for name in sharded.RESUMED:
        path = f"{output}.{name}.ckpt"
        saved = torch.load(path, weights_only=True)
        model, _ = sharded.make(1, 0, **sharded.CONFIGURATIONS[name])
        model.load_state_dict(saved["state_dict"])
        run = sharded.train(1, 0, resume=path, **sharded.CONFIGURATIONS[name])
        check_equal(run, alone[name], name)


def test_each_rank_holds_its_share_of_the_bytes(alone, together):
    for name in sharded.RESUMED:
        whole = alone[name]["bytes"]
        for result in together[1]:
            part = result["runs"][name]["bytes"]
            assert part.keys() == whole.keys()
            assert sum(part.values()) <= 1.1 / len(together[1]) * sum(whole.values()), name
        for what, count in whole.items():
            if what != "optimizer":  # which counts its steps on each rank
                assert sum(result["runs"][name]["bytes"][what] for result in together[1]) == count, (name, what)


def test_gradients_are_reduced_once_per_player_update(together):
    for result in together[1]:
        found = result["reductions"]
        assert found["plain"] == 2 * sharded.STEPS
        assert found["extrapolated, clip, n=2"] == 3 * sharded.STEPS
        assert found["plain, clip, n=2, by layers"] == 3 * 3 * sharded.STEPS  # of each layer


def test_a_turn_that_is_not_finite_on_one_rank_is_skipped_on_all(together):
    alone = sharded.spoilt(1, 0, (0,))
    for result in together[1]:
        skipped, whole = result["spoilt"][1,], result["spoilt"][()]
        assert (skipped["skipped"], whole["skipped"], alone["skipped"]) == (1, 0, 1)
        assert torch.equal(skipped["path"], together[1][0]["spoilt"][1,]["path"])
        assert (skipped["path"] - alone["path"]).abs().max() < 1e-12
        assert (skipped["path"][3] - whole["path"][3]).abs().max() > 1e-4


def test_unequal_batches_are_weighted_by_their_size(together):
    joint = sharded.uneven(0, [12])
    for result in together[1]:
        assert (result["uneven"] - joint).abs().max() < 1e-12
        assert (result["unweighed"] - joint).abs().max() > 1e-5


REFUSED = {
    "exact": "Cannot play LEAD on sharded parameters because it differentiates a gradient",
    "consensus": "Cannot play ConsensusOptimization on sharded parameters",
    "one network": "Cannot train player 'discriminator' because 6 of its parameters are not sharded over all 2 ranks",
    "tensor parallel": "are not sharded over all 2 ranks, and nothing would reduce their gradients",
    "compact files": "Cannot save sharded parameters by CompactCheckpointIO",
    "both in one": "which holds parameters of two players",
    "sets": "Cannot play on sharded parameters with constraints()",
    "in a loss": "Cannot save a checkpoint in the middle of a loss",
    "not moved": "Cannot save a folder of shards while an optimizer holds parameters that have not moved yet",
    "samples": "Cannot draw samples while its parameters are sharded",
    "average": "Cannot draw from the averaged generator while its parameters are sharded",
    "generator's file": "Cannot write the generator's file while its parameters are sharded",
}


def test_what_needs_whole_parameters_is_refused_by_name(together):
    output, results = together
    for result in results:
        for name, message in REFUSED.items() if len(results) == 2 else ():
            assert message in result["refusals"][name], name
    with pytest.raises(ConfigurationError, match="is a folder of shards"):
        sharded.train(1, 0, resume=f"{output}.folder", **sharded.CONFIGURATIONS[sharded.RESUMED[2]])

"""Several gloo processes play the same game as one process with the joint batch."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import processes
import pytest
import torch
from filelock import FileLock

from lightning_lead import rules
from lightning_lead.engine.named_rules import find_game, game_names

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("ranks", HERE / "ranks.py")
ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks)

# torch warns where reentrant checkpointing meets fakes that nobody differentiates
unused = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
pytestmark = [pytest.mark.ddp, pytest.mark.slow, unused]


@pytest.fixture(scope="module")
def alone():
    return {
        name: ranks.weights(ranks.train(world_size=1, rank=0, **settings))
        for name, settings in ranks.CONFIGURATIONS.items()
    }


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the workers share, so that one plays for all of them
    output = folder / f"ranks{request.param}"
    results = [Path(f"{output}.{rank}") for rank in range(request.param)]
    with FileLock(f"{output}.lock"):
        if not all(path.exists() for path in results):
            processes.run_ranks(request.param, [HERE / "ranks.py", output], timeout=240)
    return [torch.load(path, weights_only=True) for path in results]


def test_weights_equal_those_of_one_process(alone, together):
    for result in together:
        assert result["weights"].keys() == alone.keys()
        for key, value in result["weights"].items():
            assert (value - alone[key]).abs().max() < 1e-12, key


def test_without_the_reduction_they_do_not(alone, together):
    assert (together[0]["unreduced"] - alone["adam n=1 accumulate=1"]).abs().max() > 1e-4
    assert (together[0]["unreduced"] - together[1]["unreduced"]).abs().max() > 1e-4


def test_one_all_reduce_per_player_update_of_the_gradient_s_size(together):
    model = ranks.tiny_gan()
    generator, discriminator = (
        sum(p.numel() * p.element_size() for p in net.parameters()) for net in (model.generator, model.discriminator)
    )
    for name, settings in ranks.CONFIGURATIONS.items():
        n = settings.get("discriminator_steps", 1)
        more = 8 * 42 if settings.get("checkpointed") else 0  # the weights and biases of one more layer
        assert together[0]["calls"][name] == ranks.STEPS * (n + 1), name
        sizes = 8 * ranks.STEPS * (n + 1)  # one number each
        assert together[0]["bytes"][name] == ranks.STEPS * (n * (discriminator + more) + generator + more) + sizes, name


def test_all_reduces_per_game_step_are_those_of_the_table_in_the_docs(together):
    """From the second step on; the first one has no solution yet to begin a solve from, and needs two less for it."""
    table = ranks.documented_reductions()
    assert {type(find_game(name).rule).__name__ for name in table} == set(game_names()) & set(rules.__all__)
    for result in together:
        assert {name for name, *_ in result["reductions"]} == set(table)
        for name, n, calls, iterations in result["reductions"]:
            expected = [eval(table[name], {"n": n, "iterations": i}) for i in iterations]
            assert calls == [expected[0] - 2 * ("iterations" in table[name]), *expected[1:]], name


@pytest.mark.filterwarnings("ignore:looks moved in a loss")  # by which it is spoilt
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all_of_them(together):
    """As if it had been spoilt everywhere: the others' memory has not seen it either."""
    alone = ranks.spoilt(1, 0, (0,))
    everybody = tuple(range(len(together)))
    for result in together:
        skipped, whole = result["spoilt"][1,], result["spoilt"][()]
        assert (skipped["skipped"], whole["skipped"], alone["skipped"]) == (2, 0, 2)  # turns: the discriminator's, too
        path = skipped["path"]
        assert torch.equal(path, together[0]["spoilt"][1,]["path"])
        assert torch.equal(path[3], path[2])
        assert (path[4] - path[3]).abs().max() > 1e-4
        assert torch.equal(path, result["spoilt"][everybody]["path"])
        assert (path - alone["path"]).abs().max() < 1e-12
        assert torch.equal(path[:3], whole["path"][:3])
        assert (path[3] - whole["path"][3]).abs().max() > 1e-4  # unspoilt, the step moves


def test_a_loss_scale_changes_no_bit_and_all_ranks_lower_it_together(together):
    for result in together:
        assert torch.equal(result["lifted"]["path"], result["spoilt"][1,]["path"])
        assert result["lifted"]["skipped"] == result["spoilt"][1,]["skipped"]
        assert result["lifted"]["scales"] == [2.0**9, 2.0**9]


def test_in_fp16_ranks_are_one_process_as_far_as_fp16_goes(together):
    alone, start = ranks.half(1, 0), ranks.tiny_networks(dtype=torch.float32)
    moved = (alone["weights"] - torch.cat([p.detach().reshape(-1) for net in start for p in net.parameters()])).norm()
    for result in together:
        assert torch.equal(result["half"]["weights"], together[0]["half"]["weights"])
        assert (result["half"]["scale"], result["half"]["skipped"]) == (alone["scale"], alone["skipped"])
        assert (result["half"]["weights"] - alone["weights"]).norm() < 0.005 * moved
        assert result["half"]["skipped"] >= 2  # one turn of each player at least


def test_after_a_skipped_turn_the_next_inner_one_sees_the_opponent_s_move(together):
    alone = ranks.spoilt_inner_turn(1, 0)
    for result in together:
        path = result["spoilt inner turn"]["path"]
        assert result["spoilt inner turn"]["skipped"] == alone["skipped"] == 1
        assert (path - alone["path"]).abs().max() < 1e-12


def test_a_resumed_run_ends_where_the_uninterrupted_one_ends_on_every_rank(together):
    for result in together:
        assert torch.equal(result["whole"], result["resumed"])
        assert torch.equal(result["whole"], together[0]["whole"])


def test_unequal_batches_are_weighted_by_their_size(together):
    joint = ranks.uneven(0, [12])
    for result in together:
        assert (result["uneven"] - joint).abs().max() < 1e-12


def test_equal_samplers_with_unequal_batch_sizes_are_noticed(together):
    joint = ranks.uneven(0, [1 + 3 * (len(together) - 1)])
    for result in together:
        assert (result["lopsided"] - joint).abs().max() < 1e-12


def test_samples_that_a_collate_drops_on_one_rank_do_not_count(together):
    joint = ranks.uneven(0, [1 + 3 * (len(together) - 1)])
    for result in together:
        assert (result["dropped"] - joint).abs().max() < 1e-12


def test_buffers_agree_before_validation_and_in_checkpoints(together):
    first, *others = [result["buffers"] for result in together]
    assert any((first["drifted"] - other["drifted"]).abs().max() > 1e-6 for other in others)
    for other in others:
        assert torch.equal(first["validation"], other["validation"])
        assert torch.equal(first["checkpoint"], other["checkpoint"])

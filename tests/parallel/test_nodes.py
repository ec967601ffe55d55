"""Two groups of processes, each started by its own torchrun as on a node of a cluster, meet on the loopback device."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
from pathlib import Path

import processes
import pytest
import torch

HERE = Path(__file__).parent
pytestmark = [pytest.mark.ddp, pytest.mark.slow]
LIMIT = 300  # seconds, after which a node that waits for another is stopped


@pytest.fixture(scope="module")
def nodes():
    spec = importlib.util.spec_from_file_location("nodes", HERE / "nodes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = []
    try:
        for rank in range(2):
            command = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
            command += ["--master-addr=127.0.0.1", f"--master-port={port}", str(HERE / "nodes.py"), str(folder)]
            # in a group of its own, so that no worker outlives the test
            settings = {"stdout": folder / f"log{rank}", "stderr": subprocess.STDOUT, "start_new_session": True}
            started.append(processes.Process(command, env=environment, **settings))
        end = time.monotonic() + LIMIT
        codes = [process.wait(timeout=max(1.0, end - time.monotonic())) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], "".join((folder / f"log{rank}").read_text()[-3000:] for rank in range(2))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_they_are_two_nodes(together):
    assert [result["group_rank"] for result in together] == [0, 1]
    assert [result["world_size"] for result in together] == [2, 2]


def test_two_nodes_play_the_game_of_one_process(nodes, together):
    model = nodes.ranks.train(world_size=1, rank=0, steps=nodes.STEPS, discriminator_steps=3)
    for result in together:
        assert (result["weights"] - nodes.ranks.weights(model)).abs().max() < 1e-12
    start = nodes.ranks.weights(nodes.tiny_gan())
    assert (together[0]["weights"] - start).abs().max() > 1e-3  # the control: they have moved


def test_scores_are_shared_over_nodes_and_equal_those_of_one_process(nodes, together, tmp_path):
    alone = nodes.score(tmp_path)
    for result in together:
        assert result["scores"] == pytest.approx(alone, rel=1e-9)


def test_a_signal_to_one_node_ends_the_segment_of_all_and_the_next_one_ends_where_one_run_ends(together):
    for result in together:
        assert result["steps"] == [7, 4, 7]
        assert torch.equal(result["parts"], result["whole"])


def test_images_are_counted_over_nodes(together):
    assert [result["images"] for result in together] == [48, 48]


def test_the_command_trains_a_recipe_on_two_nodes(together):
    assert [result["recipe_steps"] for result in together] == [2, 2]
    assert torch.equal(together[0]["recipe"], together[1]["recipe"])
    assert torch.isfinite(together[0]["recipe"]).all()

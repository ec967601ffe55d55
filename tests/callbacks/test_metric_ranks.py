"""Scores, averages and files do not depend on how many processes there are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import processes
import pytest
import torch

from lightning_lead.metrics import FID
from lightning_lead.metrics import _neighbours as neighbours
from lightning_lead.metrics._collection import ScoreCollection

SCRIPT = Path(__file__).with_name("metric_ranks.py")
pytestmark = [pytest.mark.ddp, pytest.mark.slow]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, kit):
    spec = importlib.util.spec_from_file_location("metric_ranks", SCRIPT)
    ranks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ranks)
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:  # the script changes the size of the tiles for good
        patch.setattr(neighbours, "ROWS", neighbours.ROWS)
        patch.setattr(neighbours, "COLUMNS", neighbours.COLUMNS)
        return ranks.train(folder / "run", rank=0, world_size=1) | ranks.validate(folder / "frozen", world_size=1)


def started(folder, ranks, *settings):
    processes.run_ranks(ranks, [SCRIPT, folder, *settings], timeout=180)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return started(folder, 2)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    return started(folder, 4, "--only-validate")


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_same_scores_from_one_and_from_more(alone, request, ranks):
    results = request.getfixturevalue({2: "together", 4: "four"}[ranks])
    names = {"fid", "kid", "mind", "precision", "recall", "density", "coverage", "memorization", "memorization_pixels"}
    assert names | {"authenticity", "classifier_score", "classifier_score_std"} <= alone["frozen"]["values"].keys()
    assert len(results) == ranks
    for result in results:
        for name, value in alone["frozen"]["values"].items():
            assert result["frozen"]["values"][name] == pytest.approx(value, rel=1e-9), name
        assert result["frozen"]["protocol"] == alone["frozen"]["protocol"]  # the hash of the reals, too
        assert result["returned"] == pytest.approx(alone["returned"], rel=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_agree_that_the_statistics_are_there(alone, request, ranks):
    """The reals pass the network once, over all ranks; then they come from the disk, bit for bit the same."""
    results = [alone] if ranks == 1 else request.getfixturevalue({2: "together", 4: "four"}[ranks])
    trial = 2
    forwards = [sum(result[f"{name} forwards"] - trial for result in results) for name in ("frozen", "cached")]
    assert forwards == [60 + 50, 50]
    for result in results:
        assert result["cached"] == result["frozen"]


def test_half_of_the_samples_is_another_score(kit, alone):
    """The control: a rank that scored its own chunks alone would be caught."""
    from lightning_lead.callbacks import generate, to_uint8

    scores, extractor = ScoreCollection([FID()], num_features=6, chunk=20), kit.TinyExtractor()
    scores.add(extractor(to_uint8(kit.images())), real=True)
    for images in generate(kit.gan(), 50, seed=0, batch_size=20, rank=0, world_size=2):
        scores.add(extractor(to_uint8(images)), real=False)
    assert scores.compute()["fid"] != pytest.approx(alone["frozen"]["values"]["fid"], rel=1e-3)


def test_ranks_agree_in_a_fit(together):
    first, second = together
    assert [record["step"] for record in first["fit"]] == [2, 4]
    assert first["fit"] == second["fit"]
    assert first["best"] == second["best"]
    for name, tensor in first["average"].items():
        assert torch.equal(tensor, second["average"][name]), name


def test_images_are_counted_over_all_ranks(alone, together):
    assert alone["seen"] == [48, 14]
    assert [result["seen"] for result in together] == [[48, 14]] * 2


def test_rank_zero_writes_the_pictures(alone, together):
    assert together[0]["files"] == alone["files"] == ["samples/sample_00000002.png", "samples/sample_00000004.png"]

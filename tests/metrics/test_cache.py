"""Statistics of the reals on disk: the same numbers as without, and never those of something else."""

from __future__ import annotations

import warnings

import pytest
import torch

from lightning_lead.callbacks import generate
from lightning_lead.metrics import Memorization, ReferenceImages, Scorer
from lightning_lead.metrics._cache import WORTH_A_FILE, cache_folder

METRICS = ["fid", "kid", "prdc", "memorization"]


@pytest.fixture
def measure(kit, tmp_path):
    """(values, images that passed the network for the reals) of one measurement, as in a process of its own."""

    def run(reals=None, extractor=None, cache=tmp_path / "statistics", **settings):
        extractor = extractor or kit.TinyExtractor()
        reals = kit.images() if reals is None else reals
        scorer = Scorer(extractor, cache=cache, **(kit.SMALL | {"metrics": METRICS} | settings))
        scorer.take_reference(ReferenceImages(reals, name="reals"), torch.device("cpu"))
        passed = extractor.forwards - 2  # the trial
        return scorer.measure_images(generate(kit.gan(), 50, seed=0, batch_size=scorer.batch_size), {}).values, passed

    return run


def files(tmp_path):
    return sorted((tmp_path / "statistics").rglob("*.pt"))


def test_the_second_time_no_real_image_passes_the_network_and_the_numbers_are_the_same(measure, tmp_path):
    plain, passed = measure(cache=False)
    assert passed == 60
    assert not (tmp_path / "statistics").exists()
    first, passed = measure()
    assert passed == 60
    second, passed = measure()
    assert passed == 0
    assert plain == first == second  # to the last bit
    names = {path.stem for path in files(tmp_path)}
    assert names == {"moments", "features", "neighbours5", Memorization().statistics_name()}
    assert [path.suffix for path in (tmp_path / "statistics").rglob("*") if path.is_file()] == [".pt"] * 4


def test_only_what_is_needed_is_kept_and_more_is_added(measure, tmp_path):
    assert measure(metrics=["fid"])[1] == 60
    assert [path.stem for path in files(tmp_path)] == ["moments"]
    assert measure(metrics=["fid"])[1] == 0
    assert measure(metrics=["kid"])[1] == 60  # sums do not have the features
    assert measure(metrics=["fid", "kid"])[1] == 0


def test_changed_images_are_noticed(kit, measure):
    before, _ = measure()
    other = kit.images()
    other[7, 0, 0, 0] *= -1  # not one of the two that are tried
    after, passed = measure(other)
    assert passed == 60
    assert after["fid"] != before["fid"]
    assert measure()[0] == before


def test_another_network_is_noticed(kit, measure):
    measure()
    other = kit.TinyExtractor()
    other.project[0, 0] += 1
    assert measure(extractor=other)[1] == 60


def test_a_network_that_moves_to_another_module_is_the_same(kit, measure, monkeypatch):
    before = measure()
    monkeypatch.setattr(kit.TinyExtractor, "__module__", "elsewhere")
    assert measure() == (before[0], 0)


def test_another_resize_or_chunk_is_noticed(kit, measure):
    measure()
    other = kit.TinyExtractor()
    other.resize = "bilinear"
    assert measure(extractor=other)[1] == 60
    assert measure(batch_size=16)[1] == 60


def test_another_version_of_this_package_is_noticed(measure, monkeypatch):
    """How a statistic is computed is its own code, which neither torch's version nor the trial of two images tells."""
    measure()
    assert measure()[1] == 0
    monkeypatch.setattr("lightning_lead.metrics.scorer.__version__", "99.0")
    assert measure()[1] == 60


def test_changed_code_under_the_same_name_and_weights_is_noticed(kit, measure):
    before, _ = measure()

    def forward(self, images, original=kit.TinyExtractor.forward):
        return original(self, images) * 1.01

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit.TinyExtractor, "forward", forward)
        with pytest.warns(UserWarning, match="gives other features.*Give it a fingerprint of its own"):
            after, passed = measure()
    assert passed == 60
    assert after["fid"] != before["fid"]


@pytest.mark.parametrize("damage", ["cut", "noise", "bit", "other settings"])
def test_a_damaged_file_is_computed_again(measure, tmp_path, damage):
    before, _ = measure()
    for path in files(tmp_path):
        content = bytearray(path.read_bytes())
        if damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "noise":
            path.write_bytes(b"not a file of torch")
        else:
            saved = torch.load(path, weights_only=True)
            if damage == "bit":
                tensor = next(iter(saved["tensors"].values()))
                tensor.view(torch.uint8).view(-1)[0] ^= 1
            else:
                saved["settings"] = "{}"
            torch.save(saved, path)
    with pytest.warns(UserWarning, match="damaged and computed again"):
        after, passed = measure()
    assert passed == 60
    assert after == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure() == (before, 0)  # and it was written again


def test_files_hold_nothing_but_tensors_and_text(measure, tmp_path):
    measure()
    for path in files(tmp_path):
        torch.load(path, weights_only=True)


def test_a_folder_that_cannot_be_written_to_costs_a_warning(measure, tmp_path):
    (tmp_path / "statistics").write_text("a file")
    with pytest.warns(UserWarning, match="not cached because"):
        values, passed = measure()
    assert passed == 60
    assert values == measure(cache=False)[0]


def test_a_full_disk_costs_a_warning_and_leaves_nothing(measure, tmp_path, monkeypatch):
    """torch's writer raises RuntimeError then; were it to escape rank 0, the other ranks would wait for ever."""
    tried = []

    def full(content, path):
        tried.append(path)
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr("lightning_lead.metrics._cache.torch.save", full)
    with pytest.warns(UserWarning, match="not cached because .*file write failed"):
        values, passed = measure()
    assert passed == 60
    assert tried
    assert [path for path in (tmp_path / "statistics").rglob("*") if path.is_file()] == []
    assert values == measure(cache=False)[0]


def test_the_default_folder_is_for_what_takes_time(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_LEAD_HOME", str(tmp_path))
    assert cache_folder(True, WORTH_A_FILE) == tmp_path / "statistics"
    assert cache_folder(True, WORTH_A_FILE - 1) is None
    assert cache_folder(False, WORTH_A_FILE) is None
    monkeypatch.delenv("LIGHTNING_LEAD_HOME")
    assert cache_folder(True, WORTH_A_FILE).parts[-3:] == (".cache", "lightning-lead", "statistics")

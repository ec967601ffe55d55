"""torchvision's classification networks as feature networks: what the last layer sees, and what it makes of it."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from lightning_lead import ConfigurationError
from lightning_lead.features import DigitsClassifier, Inception2015, TorchvisionFeatures, feature_network
from lightning_lead.features._extractor import FeatureNetwork


def pixels(count: int, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A ResNet-18 of torchvision's, and the file of its random weights."""
    torch.manual_seed(0)
    network = models.resnet18(weights=None).eval()
    file: Path = tmp_path_factory.mktemp("resnet") / "weights.pt"
    torch.save(network.state_dict(), file)
    return network, file


def test_features_and_logits_are_the_networks_own(resnet: tuple[nn.Module, Path]) -> None:
    theirs, file = resnet
    seen: list[Tensor] = []
    handle = theirs.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    images = pixels(2)
    with torch.no_grad():
        logits = theirs(models.ResNet18_Weights.DEFAULT.transforms()(images))
    handle.remove()
    network = TorchvisionFeatures("resnet18", weights=file)
    features, ours = FeatureNetwork(network)(images)
    assert torch.equal(features, seen[0])
    assert ours is not None
    assert torch.equal(ours, logits)
    assert (network.num_features, network.num_classes) == (512, 1000)
    assert not hasattr(network, "score_name")  # "inception_score" is Inception's alone


def test_whole_keeps_the_edges(resnet: tuple[nn.Module, Path]) -> None:
    preset, whole = (TorchvisionFeatures("resnet18", weights=resnet[1], resize=r) for r in ("preset", "whole"))
    image = pixels(1, height=64, width=64)
    framed = image.clone()
    framed[..., 0] = 255 - framed[..., 0]
    assert torch.equal(preset(image), preset(framed))  # 256 → 224 cuts the first column off
    assert not torch.equal(whole(image), whole(framed))
    assert whole._prepare(pixels(1, height=40, width=20)).shape == (1, 3, 224, 224)
    assert preset.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("name", "width"),
    [("shufflenet_v2_x0_5", 1024), ("mobilenet_v3_small", 1024), ("regnet_y_400mf", 440), ("googlenet", 1024)],
)
def test_networks_that_end_elsewhere(name: str, width: int) -> None:
    network = TorchvisionFeatures(name, weights=None)
    features = network(pixels(1))
    assert features.shape == (1, width)
    assert network.classify(features).shape == (1, 1000)


def test_stays_frozen_in_eval_mode_and_out_of_autocast(resnet: tuple[nn.Module, Path]) -> None:
    network = TorchvisionFeatures("resnet18", weights=resnet[1]).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    grey = pixels(1, channels=1)
    with torch.autocast("cpu", torch.bfloat16):
        features = network(grey)
    assert features.dtype == torch.float32
    assert torch.equal(features, network(grey.expand(-1, 3, -1, -1)))


def test_named_weights_come_from_torchvision(resnet: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def from_cache(url: str, **settings: object) -> dict[str, Tensor]:
        asked.append(url)
        return resnet[0].state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", from_cache)
    network = feature_network("torchvision:resnet18")
    assert asked == [models.ResNet18_Weights.DEFAULT.url]
    assert network.fingerprint == TorchvisionFeatures("resnet18", weights=resnet[1]).fingerprint


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, **settings: object) -> dict[str, Tensor]:
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(ConfigurationError, match=r"fetch https://.*resnet18-.*pth elsewhere .*no route"):
        TorchvisionFeatures("resnet18")


def test_refused_settings(resnet: tuple[nn.Module, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"take resnet18 or .*\(got 'resnet-18'\)"):
        TorchvisionFeatures("resnet-18")
    with pytest.raises(ConfigurationError, match=r"no classification network.*'fasterrcnn_resnet50_fpn'"):
        TorchvisionFeatures("fasterrcnn_resnet50_fpn")
    with pytest.raises(ConfigurationError, match="'whole', without cutting the edges off.*'tf1'"):
        TorchvisionFeatures("resnet18", weights=None, resize="tf1")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"take one of IMAGENET1K_V1, DEFAULT.*got 'IMAGENET1K_V9'"):
        TorchvisionFeatures("resnet18", weights="IMAGENET1K_V9")
    with pytest.raises(ConfigurationError, match="does not hold its state dict"):
        TorchvisionFeatures("shufflenet_v2_x0_5", weights=resnet[1])
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ConfigurationError, match="does not hold its state dict"):
        TorchvisionFeatures("resnet18", weights=tmp_path / "text.pt")
    with pytest.raises(ConfigurationError, match="does not end in a linear layer.*AdaptiveAvgPool2d"):
        TorchvisionFeatures("squeezenet1_1", weights=None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"reads uint8 .* \(got \(2, 3, 8, 8\) of torch.float32\)"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), r"got \(2, 4, 8, 8\)"),
    ],
    ids=str,
)
def test_refused_images(resnet: tuple[nn.Module, Path], wrong: Tensor, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TorchvisionFeatures("resnet18", weights=resnet[1])(wrong)


def test_feature_networks_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(feature_network("digits"), DigitsClassifier)
    own = nn.Flatten()
    assert feature_network(own) is own
    asked: list[dict[str, object]] = []
    found = Inception2015(classifier=False)

    def pretrained(**settings: object) -> Inception2015:
        asked.append(settings)
        return found

    monkeypatch.setattr(Inception2015, "pretrained", pretrained)
    assert feature_network("inception") is found
    feature_network("inception:bilinear")
    feature_network("inception:channels_last,float16")
    assert asked == [{}, {"resize": "bilinear"}, {"channels_last": True, "dtype": torch.float16}]
    for wrong in ("vgg", "torchvision:", "torchvision", "inception:bicubic", "digits:large", None):
        with pytest.raises(ConfigurationError, match=r"take 'inception', alone .*'torchvision:resnet18'.*got"):
            feature_network(wrong)  # type: ignore[arg-type]

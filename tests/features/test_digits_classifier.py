"""The shipped feature network: what it is worth, and that it is the one that the script makes."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
import torch
from torch import Tensor

from lightning_lead import ConfigurationError
from lightning_lead.data import DigitsDataModule
from lightning_lead.features import DigitsClassifier

pytest.importorskip("sklearn")


def pixels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def held_out() -> tuple[Tensor, Tensor]:
    """The fifth of the digits that training leaves out."""
    from sklearn.model_selection import train_test_split

    digits = DigitsDataModule()
    labels = digits.reference_labels()
    _, part = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels.tolist())
    return digits.reference_images()[part], labels[part]


def accuracy(network: DigitsClassifier, images: Tensor, labels: Tensor) -> float:
    return (network.classify(network(pixels(images))).argmax(1) == labels).double().mean().item()


def test_held_out_accuracy(held_out: tuple[Tensor, Tensor]) -> None:
    network = DigitsClassifier.pretrained()
    assert accuracy(network, *held_out) >= 0.97
    assert accuracy(DigitsClassifier(), *held_out) < 0.4  # the weights are what makes the difference


def test_disturbed_images_are_still_recognised(held_out: tuple[Tensor, Tensor]) -> None:
    images, labels = held_out
    network = DigitsClassifier.pretrained()
    assert accuracy(network, images + 0.2 * torch.randn_like(images), labels) >= 0.95
    assert accuracy(network, 0.8 * (images + 1) - 1, labels) >= 0.95


@pytest.mark.parametrize("side", [16, 32])
def test_enlarged_digits_are_recognised(side: int) -> None:
    digits = DigitsDataModule(image_size=side)
    assert accuracy(DigitsClassifier.pretrained(), digits.reference_images(), digits.reference_labels()) > 0.97


def frechet(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of the Gaussians that fit two sets of features, in float64."""
    (m, c), (n, d) = ((x.mean(0), torch.cov(x.T)) for x in (first.double(), second.double()))
    cross = torch.linalg.eigvals(c @ d).real.clamp(min=0).sqrt().sum()
    return float((m - n).square().sum() + c.trace() + d.trace() - 2 * cross)


def test_features_tell_what_a_generator_gets_wrong() -> None:
    network, digits = DigitsClassifier.pretrained(), DigitsDataModule()
    images, labels = digits.reference_images(), digits.reference_labels()
    features = network(pixels(images))
    assert features.shape == (1797, network.num_features)
    assert (features.std(0) > 0.1).all()  # no dead units: every feature counts
    order = torch.randperm(len(images))
    floor = frechet(features[order[::2]], features[order[1::2]])
    lost = frechet(features, features[labels != 3])
    blurred = frechet(features, network(pixels(torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1))))
    noise = frechet(features, network(pixels(2 * torch.rand_like(images) - 1)))
    assert 2 * floor < lost < blurred < noise, (floor, lost, blurred, noise)


def test_pretrained_is_frozen_and_in_eval_mode() -> None:
    network = DigitsClassifier.pretrained()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert not list(network.buffers())


def test_the_file_is_small_and_loads_as_weights_only() -> None:
    file = files("lightning_lead.features") / "weights" / "digits_classifier.pt"
    assert len(file.read_bytes()) <= 300_000


def test_fingerprint() -> None:
    network = DigitsClassifier.pretrained()
    assert re.fullmatch("[0-9a-f]{64}", network.fingerprint)
    assert network.fingerprint == DigitsClassifier.pretrained().fingerprint
    with torch.no_grad():
        network.head.bias[3] += 1e-6
    assert network.fingerprint != DigitsClassifier.pretrained().fingerprint


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8), r"reads uint8 .* \(got \(2, 1, 8, 8\) of torch.float32\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"got \(2, 3, 8, 8\)"),
        (torch.zeros(2, 1, 12, 12, dtype=torch.uint8), r"got \(2, 1, 12, 12\)"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"got \(1, 8, 8\)"),
    ],
    ids=str,
)
def test_refused_images(images: Tensor, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DigitsClassifier()(images)

"""Stacked digits: every class as often, each channel a digit of its label, and modes that are counted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_lead import ConfigurationError
from lightning_lead.data import DigitsDataModule, StackedDigitsDataModule
from lightning_lead.features import DigitsClassifier, StackedDigitsClassifier, feature_network
from lightning_lead.metrics import ImageSet, Modes, Scorer

pytest.importorskip("sklearn")


def pixels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().to(torch.uint8)


@pytest.fixture(scope="module")
def stacked() -> StackedDigitsDataModule:
    return StackedDigitsDataModule(num_images=3500, seed=4)


def test_each_channel_is_an_image_of_its_digit(stacked: StackedDigitsDataModule) -> None:
    images, labels = stacked.tensors()
    digits, names = DigitsDataModule().tensors()
    known = {image.numpy().tobytes(): int(name) for image, name in zip(digits, names, strict=True)}
    for image, label in zip(images[::7], labels[::7], strict=True):
        assert [known[channel[None].contiguous().numpy().tobytes()] for channel in image] == [
            int(digit) for digit in f"{label:03d}"
        ]
    counts = labels.bincount(minlength=1000)
    assert (counts.min(), counts.max()) == (3, 4)
    drawn = {channel.numpy().tobytes() for image in images for channel in image.contiguous()}
    assert len(drawn) > 1700  # of 1,797: 10,500 draws leave out 1,797·e^−5.8 = 5 or so


def test_the_seed_decides() -> None:
    first, again, other = (StackedDigitsDataModule(num_images=50, seed=seed).tensors()[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert StackedDigitsDataModule(image_size=16).image_shape == (3, 16, 16)
    with pytest.raises(ConfigurationError, match="num_images must be an integer ≥ 1"):
        StackedDigitsDataModule(num_images=0)


def test_the_classifier_sees_three_digits(stacked: StackedDigitsDataModule) -> None:
    images, labels = stacked.tensors()
    network = feature_network("stacked_digits")
    features = network(pixels(images))
    of_one = DigitsClassifier.pretrained()(pixels(images[:, 1:2]))
    torch.testing.assert_close(features[:, 64:128], of_one)
    logits = network.classify(features)
    assert (logits.argmax(1) == labels).double().mean() > 0.95
    with pytest.raises(ConfigurationError, match=r"three digits as the channels.*got \(3500, 1, 8, 8\)"):
        network(pixels(images[:, :1]))


def test_modes_and_divergence_are_those_of_a_count_by_hand() -> None:
    classes = torch.tensor([0, 0, 0, 1, 3, 3])
    logits = torch.nn.functional.one_hot(classes, 5).float()
    shares = [3 / 6, 1 / 6, 2 / 6]
    expected = sum(q * math.log(q / (1 / 5)) for q in shares)
    found = Modes().compute(ImageSet(), ImageSet(logits=logits))
    assert found["modes"] == 3
    assert found["mode_kl"] == pytest.approx(expected, rel=1e-12)
    even = torch.eye(5).repeat(4, 1)
    assert Modes().compute(ImageSet(), ImageSet(logits=even)) == {"modes": 5, "mode_kl": pytest.approx(0, abs=1e-12)}


def test_a_score_by_classes_needs_a_classifier() -> None:
    class Plain(torch.nn.Module):
        num_features = 4

        def forward(self, images: Tensor) -> Tensor:
            return images.float().flatten(1)[:, :4]

    for metrics in (["modes"], [Modes()]):
        with pytest.raises(ConfigurationError, match=r"compute modes because Plain has no classifier"):
            Scorer(Plain(), metrics=metrics, num_samples=10)
    scorer = Scorer(StackedDigitsClassifier(), metrics=["modes"], num_samples=10)
    assert scorer.names[:2] == ["modes", "mode_kl"]

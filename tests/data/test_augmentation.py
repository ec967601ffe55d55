"""Random numbers by sample and epoch, and bytes as floats."""

from __future__ import annotations

import hashlib

import pytest
import torch

from lightning_lead.data._augmentation import flipped, sample_keys, uniform
from lightning_lead.data._byte_images import ByteImages, batch_as_it_is, floats

WORD = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    """SplitMix64's finaliser in whole numbers of any size: the slow twin."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def test_the_mixer_is_splitmix64() -> None:
    # the first output of the published generator that starts from 0 (Vigna's splitmix64.c prints e220a8397b1dcdaf)
    assert mix(GAMMA) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("count", [1, 2, 7])
def test_numbers_are_those_of_the_slow_twin(count: int) -> None:
    samples = [0, 1, 49_999, 50_000 * 12_345 + 7]
    start = int.from_bytes(hashlib.sha256(b"samples/3").digest()[:8], "little")
    keys = [mix((start + sample) * GAMMA & WORD) for sample in samples]
    words = [[mix(key + (j + 1) * GAMMA & WORD) for j in range(4)] for key in keys]
    expected = [[part / 2**24 for word in row for part in (word >> 40, word >> 8 & 0xFFFFFF)][:count] for row in words]
    assert uniform(sample_keys(3, torch.tensor(samples)), count).tolist() == expected


def test_numbers_are_uniform_and_unrelated() -> None:
    numbers = uniform(sample_keys(0, torch.arange(2000)), 500).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # a million numbers: five standard errors of the mean, of the second moment and of a correlation
    assert numbers.mean().item() == pytest.approx(1 / 2, abs=5 * 0.289e-3)
    assert numbers.square().mean().item() == pytest.approx(1 / 3, abs=5 * 0.298e-3)
    centred = (numbers - 0.5) * 12**0.5
    for other in (centred.roll(1, 0), centred.roll(1, 1), centred.roll(2, 1)):  # next sample, next pixel
        assert abs((centred * other).mean().item()) < 5e-3
    counts = torch.histc(numbers, 64, 0, 1)
    assert (counts - len(numbers) * 500 / 64).square().sum() / (len(numbers) * 500 / 64) < 130  # chi², 63 degrees


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.arange(2.0).expand(10_000, 1, 1, 2)
    mirrored = flipped(images, sample_keys(0, torch.arange(10_000)))[:, 0, 0, 0]
    assert mirrored.mean().item() == pytest.approx(0.5, abs=5 * 0.005)
    assert not torch.equal(mirrored, flipped(images, sample_keys(1, torch.arange(10_000)))[:, 0, 0, 0])


def test_bytes_as_floats() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    x = floats(every)
    assert (x[0].item(), x[-1].item()) == (-1.0, 1.0)
    assert torch.equal(x, -x.flip(0))
    # 1/255 and the product are rounded, each by half a unit in the last place
    torch.testing.assert_close(x.double(), every.double() / 127.5 - 1, atol=2.0**-23, rtol=0)
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8), every)


def pictures(**settings: object) -> ByteImages:
    images = torch.randint(0, 256, (8, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ByteImages(images, torch.arange(8), **settings)  # type: ignore[arg-type]


def test_noise_lies_in_its_range_and_changes_with_epoch_sample_and_seed() -> None:
    plain = pictures().__getitems__(list(range(8)))[0]
    noise = pictures(noise=1 / 128).__getitems__(list(range(8)))[0] - plain
    assert noise.min() > -1e-7  # the sum is rounded
    assert noise.max() < 1 / 128 + 1e-7
    assert noise.mean().item() == pytest.approx(1 / 256, rel=0.1)
    again, later = (pictures(noise=1 / 128).__getitems__([i + 8 * e for i in range(8)])[0] - plain for e in (0, 1))
    other = pictures(noise=1 / 128, seed=1).__getitems__(list(range(8)))[0] - plain
    assert torch.equal(noise, again)
    assert not torch.equal(noise, later)
    assert not torch.equal(noise, other)
    assert len(noise[:, 0, 0, 0].unique()) == 8


def test_flips_do_not_change_the_noise() -> None:
    both = pictures(flip=True, noise=1 / 128).__getitems__(list(range(8)))[0]
    flips = pictures(flip=True).__getitems__(list(range(8)))[0]
    noise = pictures(noise=1 / 128).__getitems__(list(range(8)))[0] - pictures().__getitems__(list(range(8)))[0]
    torch.testing.assert_close(both - flips, noise, atol=1e-6, rtol=0)
    assert not torch.equal(flips, pictures().__getitems__(list(range(8)))[0])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    data = pictures(flip=True, noise=0.1)
    batch, labels = data.__getitems__([3, 15, 4])
    for k, index in enumerate([3, 15, 4]):
        image, label = data[index]
        assert torch.equal(image, batch[k])
        assert label == labels[k] == index % 8
    singly = batch_as_it_is([data[i] for i in (3, 15, 4)])
    assert torch.equal(singly[0], batch)


def test_images_without_labels() -> None:
    data = ByteImages(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), None)
    assert [part.shape for part in data.__getitems__([1, 2])] == [(2, 1, 2, 2)]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits() -> None:
    here = pictures(flip=True, noise=1 / 128)
    assert here.labels is not None
    there = ByteImages(here.images.cuda(), here.labels.cuda(), flip=True, noise=1 / 128)
    indices = [7, 0, 8 * 1000 + 3]
    for one, other in zip(here.__getitems__(indices), there.__getitems__(indices), strict=True):
        assert other.device.type == "cuda"
        assert torch.equal(one, other.cpu())

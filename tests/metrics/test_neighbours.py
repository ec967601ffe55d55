"""Precision, recall, density and coverage against all distances at once; memorization against planted copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_lead.metrics import Memorization
from lightning_lead.metrics import _neighbours as neighbours
from lightning_lead.metrics._collection import ScoreCollection, find_scores, pixel_points
from lightning_lead.metrics._neighbours import meet, nearest_squared

PRDC = ["precision", "recall", "density", "coverage"]


def draw(count, seed, scale=1.0):
    return scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def scored(reals, fakes, metrics, pixels=None, image_shape=(1, 1, 1), **options):
    chosen = find_scores(metrics, options)
    scores = ScoreCollection(chosen, num_features=reals.shape[1], chunk=8, image_shape=image_shape)
    for real, points in ((True, reals), (False, fakes)):
        for part in points.split(8):
            scores.add(part, real=real)
    for real, images in zip((True, False), pixels or (), strict=False):
        for part in images.split(8):
            scores.add_pixels(part, real=real)
    return scores.compute(), scores


def dense(reals, fakes, precision_k=3, density_k=5):
    """The definitions, with every distance in one matrix."""
    x, y = reals.double().numpy(), fakes.double().numpy()
    between = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1) ** 0.5  # noqa: E731
    kth = lambda points, k: np.sort(between(points, points), axis=1)[:, k]  # noqa: E731
    d = between(x, y)
    return {
        "precision": (d <= kth(x, precision_k)[:, None]).any(0).mean(),
        "recall": (d <= kth(y, precision_k)[None]).any(1).mean(),
        "density": (d <= kth(x, density_k)[:, None]).sum(0).mean() / density_k,
        "coverage": (d.min(1) <= kth(x, density_k)).mean(),
    }


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles of several shapes, with a last one that is not full, from 97 and 61 points."""
    monkeypatch.setattr(neighbours, "ROWS", 8)
    monkeypatch.setattr(neighbours, "COLUMNS", 7)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("tiles", ["whole", "small"])
def test_equal_to_the_definitions(request, scale, tiles):
    if tiles == "small":
        request.getfixturevalue("small_tiles")
    reals, fakes = draw(97, 0), draw(61, 1, scale) + 0.5
    values, _ = scored(reals, fakes, PRDC)
    assert values == pytest.approx(dense(reals, fakes), rel=1e-12)
    assert 0 < values["precision"] <= 1


def test_other_numbers_of_neighbours():
    reals, fakes = draw(50, 0), draw(40, 1) + 0.7
    values, _ = scored(reals, fakes, PRDC, precision_k=1, density_k=2)
    assert values == pytest.approx(dense(reals, fakes, 1, 2), rel=1e-12)


def test_only_what_was_asked_for():
    values, _ = scored(draw(20, 0), draw(20, 1), ["density", "precision"])
    assert values.keys() == {"density", "precision"}


def test_what_the_four_say():
    reals = draw(60, 0)
    same, _ = scored(reals, draw(60, 1), PRDC)
    far, _ = scored(reals, draw(60, 1) + 100, PRDC)
    one_mode, _ = scored(reals, reals[:1] + 1e-3 * draw(60, 1), PRDC)
    assert set(far.values()) == {0.0}
    assert min(same.values()) > 0.5
    assert one_mode["precision"] == 1.0  # all of them good ...
    assert one_mode["recall"] < 0.1  # ... and all of them one
    assert one_mode["coverage"] < 0.2


def test_points_that_are_far_from_the_origin():
    """|x|² + |y|² − 2 x·y loses digits there; float64 has enough of them for float32 features."""
    reals, fakes = draw(40, 0), draw(40, 1)
    shift = 1000 * torch.ones(5)
    moved = ((reals + shift).float(), (fakes + shift).float())
    assert scored(*moved, PRDC)[0] == pytest.approx(dense(*moved), rel=1e-12)


def test_duplicates_are_neighbours_of_each_other(small_tiles):
    points = draw(20, 0).repeat(2, 1)
    squared = nearest_squared(points, 2)
    assert (squared[:, 0] < 1e-12).all()
    assert (squared[:, 1] > 1e-3).all()


def test_the_nearest_is_found_in_any_tile(small_tiles):
    reals, fakes = draw(97, 0), draw(61, 1)
    meeting = meet(fakes, reals, {})
    distances = torch.cdist(fakes.double(), reals.double())
    assert torch.equal(meeting.nearest_real, distances.argmin(dim=1))
    assert torch.allclose(meeting.nearest_fake.sqrt(), distances.amin(dim=0))


# ---- copies ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs():
    """Images, and features that are their pixels, so that both spaces agree."""
    images = torch.randint(0, 256, (300, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images[:200], images[200:]


def looked_at(train, samples):
    features = [images.flatten(1).float() for images in (train, samples)]
    settings = {"pixels": (train, samples), "image_shape": (1, 4, 4)}
    return scored(*features, ["memorization"], **settings)


def test_new_images_are_no_copies(photographs):
    values, _ = looked_at(*photographs)
    assert values["memorization"] == values["memorization_pixels"] <= 0.04  # 0.01 is expected of 100
    assert 0.35 < values["authenticity"] < 0.65


def test_no_images_are_not_averaged(monkeypatch):
    """As on a rank without a chunk: a device may refuse to average nothing."""

    def refuse(images, size):
        assert len(images)
        return images[..., : size[0], : size[1]]

    monkeypatch.setattr("lightning_lead.metrics._collection.adaptive_avg_pool2d", refuse)
    nothing = pixel_points(torch.zeros(0, 3, 128, 32, dtype=torch.uint8))
    assert (nothing.shape, nothing.dtype) == ((0, 3, 64, 32), torch.uint8)
    assert pixel_points(torch.zeros(2, 3, 128, 32, dtype=torch.uint8)).shape == (2, 3, 64, 32)
    ScoreCollection([Memorization()], num_features=4, chunk=4, image_shape=(3, 128, 128))


def test_copies_are_found(photographs):
    train, new = photographs
    values, scores = looked_at(train, torch.cat([train[:30], new[:70]]))
    assert 0.3 <= values["memorization"] == values["memorization_pixels"] <= 0.33
    assert values["authenticity"] < 0.5
    nearly = (train[:30].int() + 1).clamp(max=255).to(torch.uint8)
    assert looked_at(train, torch.cat([nearly, new[:70]]))[0]["memorization"] >= 0.3
    assert scores.picture is not None


def test_copies_of_training_images_that_are_there_twice(photographs):
    """The 1st percentile is then zero, and a copy's distance has to be zero as well, not nearly so."""
    train, new = photographs
    train = torch.cat([train, train[:50]])
    values, _ = looked_at(train, torch.cat([train[:30], new[:70]]))
    assert values["memorization"] == values["memorization_pixels"] == 0.3


def test_moved_copies_are_seen_by_features_alone(photographs):
    """What both spaces are for: here the features are what does not change when an image is rolled."""
    train, new = photographs
    rolled = torch.cat([train[:30].roll(1, dims=-1), new[:70]])
    features = [torch.fft.fft(images.float(), dim=-1).abs().flatten(1) for images in (train, rolled)]
    values, _ = scored(*features, ["memorization"], pixels=(train, rolled), image_shape=(1, 4, 4))
    assert values["memorization"] >= 0.3 > 0.1 > values["memorization_pixels"]


def test_the_picture_has_samples_above_their_nearest(photographs):
    train, new = photographs
    _, scores = looked_at(train, torch.cat([new[:90], train[5:6]]))
    scale, edge = 8, 2  # a side of 4 is enlarged to 32
    first = scores.picture[0, edge : edge + 4 * scale : scale, edge : edge + 4 * scale : scale]
    assert torch.equal(first, train[5, 0])
    below = scores.picture[0, 36 : 36 + 4 * scale : scale, edge : edge + 4 * scale : scale]
    assert torch.equal(below, train[5, 0])


def test_large_images_are_averaged_down():
    images = torch.zeros(2, 3, 128, 80, dtype=torch.uint8)
    assert pixel_points(images).shape == (2, 3, 64, 64)
    assert pixel_points(images[..., :64, :64]).shape == (2, 3, 64, 64)
    assert pixel_points(images[:0]).shape == (0, 3, 64, 64)

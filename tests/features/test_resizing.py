"""TensorFlow 1's bilinear resize: by hand, against another implementation, and not the one of today."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from lightning_lead.features._resizing import resize_tf1


def test_two_by_two_pixels_by_hand() -> None:
    image = torch.tensor([[[[0.0, 4.0], [8.0, 20.0]]]])
    # positions 0, ½, 1, 1½ → the last is past the edge, where both neighbours are the edge
    expected = [[0.0, 2.0, 4.0, 4.0], [4.0, 8.0, 12.0, 12.0], [8.0, 14.0, 20.0, 20.0], [8.0, 14.0, 20.0, 20.0]]
    assert resize_tf1(image, 4)[0, 0].tolist() == expected
    half_pixel = interpolate(image, (4, 4), mode="bilinear", align_corners=False)
    assert (half_pixel[0, 0] - torch.tensor(expected)).abs().max() > 1  # the control: today's resize is another


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (48, 48), (1, 5), (299, 299), (320, 411)])
def test_equals_torch_fidelity(height: int, width: int) -> None:
    module = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = torch.randint(256, (2, 3, height, width)).float()
    theirs = module.interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    # the same float32 operations in the same order, so to the bit
    assert torch.equal(resize_tf1(images, 299), theirs)


def test_same_size_changes_nothing() -> None:
    images = torch.rand(1, 2, 7, 7)
    assert torch.equal(resize_tf1(images, 7), images)

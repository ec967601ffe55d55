"""The feature network: what its failures are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_lead import ConfigurationError
from lightning_lead.features._extractor import FeatureNetwork


class Failing(nn.Module):
    num_features = 4

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


@pytest.fixture
def images():
    return torch.zeros(3, 1, 2, 2, dtype=torch.uint8)


def test_no_memory_left_is_no_fault_of_the_network(images):
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    with pytest.raises(torch.OutOfMemoryError, match=r"for 3 images at once.*lower batch_size.*9 GiB") as caught:
        FeatureNetwork(Failing(full))(images)
    assert caught.value.__cause__ is full


def test_any_other_failure_is(images):
    with pytest.raises(ConfigurationError, match=r"fails on bytes of shape \(3, 1, 2, 2\); wrap it"):
        FeatureNetwork(Failing(RuntimeError("expected 3 channels")))(images)

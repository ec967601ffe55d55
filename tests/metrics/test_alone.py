"""Scores know neither Lightning nor any generator."""

from __future__ import annotations

from test_imports import loaded_modules


def test_lightning_is_not_loaded():
    script = """
import torch
from lightning_lead.metrics import FID, ImageSet
x = torch.rand(9, 2)
FID().compute(ImageSet(features=x), ImageSet(features=x))
"""
    loaded = loaded_modules(script, {"lightning_lead", "lightning", "lightning_fabric", "pytorch_lightning"})
    assert "lightning_lead.metrics" in loaded
    unwanted = ("pytorch_lightning", "lightning_fabric", "lightning.", "lightning_lead.gan", "lightning_lead.callbacks")
    assert [name for name in loaded if name.startswith(unwanted)] == []

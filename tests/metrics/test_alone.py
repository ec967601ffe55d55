"""Scores know neither Lightning nor any generator."""

from __future__ import annotations

import subprocess
import sys


def test_lightning_is_not_loaded():
    script = """
import sys, torch
from lightning_lead.metrics import FID, ImageSet
x = torch.rand(9, 2)
FID().compute(ImageSet(features=x), ImageSet(features=x))
unwanted = ("pytorch_lightning", "lightning_fabric", "lightning.", "lightning_lead.gan", "lightning_lead.callbacks")
print([name for name in sys.modules if name.startswith(unwanted)])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]"]

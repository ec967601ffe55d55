from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[1] / "callbacks" / "callback_kit.py"


@pytest.fixture(scope="session")
def kit():
    """The small GAN, images and feature network of the callbacks' tests."""
    spec = importlib.util.spec_from_file_location("callback_kit", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

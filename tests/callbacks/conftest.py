from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("callback_kit", Path(__file__).with_name("callback_kit.py"))
_kit = importlib.util.module_from_spec(spec)
sys.modules["callback_kit"] = _kit
spec.loader.exec_module(_kit)


@pytest.fixture(scope="session")
def kit():
    """The module callback_kit, which the distributed script imports as well."""
    return _kit

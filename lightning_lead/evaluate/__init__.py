"""Scores of a checkpoint or of a folder of images, with the protocol of each. `lightning-lead evaluate --help`."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_lead.evaluate.command import differences, evaluate

if TYPE_CHECKING:  # loaded on first use, so that help costs no torch
    from lightning_lead.evaluate.folder import PNGFolder
    from lightning_lead.evaluate.measure import ScoreRecord, evaluate_checkpoint, evaluate_images

__all__ = ["PNGFolder", "ScoreRecord", "differences", "evaluate", "evaluate_checkpoint", "evaluate_images"]

_MODULES = {"PNGFolder": "folder"}
_MODULES |= dict.fromkeys(("ScoreRecord", "evaluate_checkpoint", "evaluate_images"), "measure")


def __getattr__(name: str) -> Any:
    if name == "Evaluation":
        warnings.warn("lightning_lead.evaluate.Evaluation is called ScoreRecord", FutureWarning, stacklevel=2)
        name = "ScoreRecord"
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

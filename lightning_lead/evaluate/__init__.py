"""Scores of a checkpoint or of a folder of images, with the protocol of each. `lightning-lead evaluate --help`."""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes, renamed_attribute
from lightning_lead.evaluate.command import differences, evaluate

if TYPE_CHECKING:  # loaded on first use, so that help costs no torch
    from lightning_lead.evaluate.folder import PNGFolder
    from lightning_lead.evaluate.measure import ScoreRecord, evaluate_checkpoint, evaluate_images

__all__ = ["PNGFolder", "ScoreRecord", "differences", "evaluate", "evaluate_checkpoint", "evaluate_images"]

_lazy = lazy_attributes(
    __name__, {".folder": "PNGFolder", ".measure": "ScoreRecord evaluate_checkpoint evaluate_images"}
)
_renamed = renamed_attribute(__name__, {"Evaluation": "lightning_lead.evaluate:ScoreRecord"}, since="0.2", until="0.3")


def __getattr__(name: str) -> Any:
    return _renamed(name) if name == "Evaluation" else _lazy(name)

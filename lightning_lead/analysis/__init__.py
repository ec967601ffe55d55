"""What a game optimizer does on games that know their answer: paths, update operators, spectra."""

from lightning_lead.analysis.operator import UpdateOperator, spectral_radius, update_operator
from lightning_lead.analysis.play import Match, Path, simulate

__all__ = [
    "Match",
    "Path",
    "UpdateOperator",
    "simulate",
    "spectral_radius",
    "update_operator",
]

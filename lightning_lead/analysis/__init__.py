"""What a game optimizer does on games that know their answer: paths, update operators, spectra."""

from lightning_lead.analysis.closed_forms import block_eigenvalues, closed_form_radius, eigenvalues
from lightning_lead.analysis.lead_law import LeadLaw, alternating_lead_law
from lightning_lead.analysis.operator import UpdateOperator, spectral_radius, update_operator
from lightning_lead.analysis.play import Match, Path, simulate
from lightning_lead.analysis.recurrences import Block, recurrence_roots

__all__ = [
    "Block",
    "LeadLaw",
    "Match",
    "Path",
    "UpdateOperator",
    "alternating_lead_law",
    "block_eigenvalues",
    "closed_form_radius",
    "eigenvalues",
    "recurrence_roots",
    "simulate",
    "spectral_radius",
    "update_operator",
]

"""What a game optimizer does on games that know their answer: paths, update operators, spectra."""

from lightning_lead.analysis.arnoldi import dense_jacobian, game_spectrum, jacobian_product
from lightning_lead.analysis.closed_forms import block_eigenvalues, closed_form_radius, eigenvalues
from lightning_lead.analysis.families import FAMILIES, Axis, Family
from lightning_lead.analysis.lead_law import LeadLaw, alternating_lead_law
from lightning_lead.analysis.operator import UpdateOperator, spectral_radius, update_operator
from lightning_lead.analysis.play import Match, Path, simulate
from lightning_lead.analysis.recurrences import Block, recurrence_roots
from lightning_lead.analysis.search import BestSettings, Spectrum, best_settings, stability_region

__all__ = [
    "FAMILIES",
    "Axis",
    "BestSettings",
    "Block",
    "Family",
    "LeadLaw",
    "Match",
    "Path",
    "Spectrum",
    "UpdateOperator",
    "alternating_lead_law",
    "best_settings",
    "block_eigenvalues",
    "closed_form_radius",
    "dense_jacobian",
    "eigenvalues",
    "game_spectrum",
    "jacobian_product",
    "recurrence_roots",
    "simulate",
    "spectral_radius",
    "stability_region",
    "update_operator",
]

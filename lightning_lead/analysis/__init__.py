"""Game optimizers on games that know their answer, and the physics that it discretises.

Paths, update operators and spectra of rules; forces, energy and continuous paths of the particle behind LEAD.
"""

from lightning_lead.analysis.arnoldi import dense_jacobian, game_spectrum, jacobian_product
from lightning_lead.analysis.closed_forms import block_eigenvalues, closed_form_radius, eigenvalues
from lightning_lead.analysis.families import FAMILIES, Axis, Family
from lightning_lead.analysis.operator import UpdateOperator, spectral_radius, update_operator
from lightning_lead.analysis.play import Match, Path, simulate
from lightning_lead.analysis.recurrences import Block, recurrence_roots
from lightning_lead.analysis.search import BestSettings, Spectrum, best_settings, stability_region
from lightning_lead.physics.accuracy import Accuracy, order_of_accuracy
from lightning_lead.physics.discretisation import LeadUnits, discretise, lead_path
from lightning_lead.physics.energy import kinetic_energy, work
from lightning_lead.physics.forces import AbstractForce, ConservativeForce, Friction, MagneticForce, VortexForce
from lightning_lead.physics.lyapunov import LeadLyapunov, lead_system, lyapunov_matrix
from lightning_lead.physics.trajectories import Trajectory, integrate
from lightning_lead.rules.lead_law import LeadLaw, alternating_lead_law, least_coupling

__all__ = [
    # rules on games
    "Match",
    "Path",
    "UpdateOperator",
    "simulate",
    "spectral_radius",
    "update_operator",
    # closed forms
    "Block",
    "LeadLaw",
    "alternating_lead_law",
    "block_eigenvalues",
    "closed_form_radius",
    "eigenvalues",
    "least_coupling",
    "recurrence_roots",
    # search
    "FAMILIES",
    "Axis",
    "BestSettings",
    "Family",
    "Spectrum",
    "best_settings",
    "stability_region",
    # networks
    "dense_jacobian",
    "game_spectrum",
    "jacobian_product",
    # forces
    "AbstractForce",
    "ConservativeForce",
    "Friction",
    "MagneticForce",
    "VortexForce",
    # paths, energy and stability of the particle
    "LeadLyapunov",
    "Trajectory",
    "integrate",
    "kinetic_energy",
    "lead_system",
    "lyapunov_matrix",
    "work",
    # discretisation
    "Accuracy",
    "LeadUnits",
    "discretise",
    "lead_path",
    "order_of_accuracy",
]

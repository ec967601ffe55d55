"""What the update is made of: the forces of the physical system, its paths, its energy, and how LEAD discretises it."""

from lightning_lead.analysis.accuracy import Accuracy, order_of_accuracy
from lightning_lead.analysis.discretisation import LeadUnits, discretise, lead_path
from lightning_lead.analysis.energy import kinetic_energy, work
from lightning_lead.analysis.forces import AbstractForce, ConservativeForce, Friction, MagneticForce, VortexForce
from lightning_lead.analysis.lyapunov import LeadLyapunov, lead_system, lyapunov_matrix
from lightning_lead.analysis.trajectories import Trajectory, integrate

__all__ = [
    # forces
    "AbstractForce",
    "ConservativeForce",
    "Friction",
    "MagneticForce",
    "VortexForce",
    # paths
    "Trajectory",
    "integrate",
    # energy
    "kinetic_energy",
    "work",
    # stability
    "LeadLyapunov",
    "lead_system",
    "lyapunov_matrix",
    # discretisation
    "Accuracy",
    "LeadUnits",
    "discretise",
    "lead_path",
    "order_of_accuracy",
]

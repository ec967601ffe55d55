"""The particle behind LEAD: forces, energy, continuous paths, and the steps that discretise them."""

from lightning_lead.physics.accuracy import Accuracy, order_of_accuracy
from lightning_lead.physics.discretisation import LeadUnits, discretise, lead_forces, lead_path
from lightning_lead.physics.energy import kinetic_energy, work
from lightning_lead.physics.forces import AbstractForce, ConservativeForce, Friction, MagneticForce, VortexForce
from lightning_lead.physics.lyapunov import LeadLyapunov, lead_system, lyapunov_matrix
from lightning_lead.physics.trajectories import Trajectory, acceleration, integrate

__all__ = [
    "AbstractForce",
    "Accuracy",
    "ConservativeForce",
    "Friction",
    "LeadLyapunov",
    "LeadUnits",
    "MagneticForce",
    "Trajectory",
    "VortexForce",
    "acceleration",
    "discretise",
    "integrate",
    "kinetic_energy",
    "lead_forces",
    "lead_path",
    "lead_system",
    "lyapunov_matrix",
    "order_of_accuracy",
    "work",
]

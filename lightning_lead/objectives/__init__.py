"""Adversarial objectives as functions of logits, and penalties that losses get on top."""

from lightning_lead.objectives.adversarial import (
    AdversarialObjective,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Wasserstein,
    adversarial_objective,
)
from lightning_lead.objectives.finite_difference import ApproximateR1, ApproximateR2
from lightning_lead.objectives.lecam import LeCam
from lightning_lead.objectives.path_length import AbstractGeneratorPenalty, PathLength
from lightning_lead.objectives.penalties import (
    R1,
    R2,
    WGANGP,
    AbstractGradientPenalty,
    AbstractPenalty,
)
from lightning_lead.objectives.relativistic import RelativisticAverage, RelativisticPairing

__all__ = [
    "R1",
    "R2",
    "WGANGP",
    "AbstractGeneratorPenalty",
    "AbstractGradientPenalty",
    "AbstractPenalty",
    "AdversarialObjective",
    "ApproximateR1",
    "ApproximateR2",
    "Hinge",
    "LeCam",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "PathLength",
    "RelativisticAverage",
    "RelativisticPairing",
    "Wasserstein",
    "adversarial_objective",
]

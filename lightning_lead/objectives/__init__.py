"""Adversarial objectives: what generator and discriminator minimise, as functions of the logits; gradient penalties."""

from lightning_lead.objectives.adversarial import (
    AdversarialObjective,
    Hinge,
    Minimax,
    NonSaturating,
    Wasserstein,
    adversarial_objective,
)
from lightning_lead.objectives.penalties import R1, WGANGP, AbstractPenalty

__all__ = [
    "R1",
    "WGANGP",
    "AbstractPenalty",
    "AdversarialObjective",
    "Hinge",
    "Minimax",
    "NonSaturating",
    "Wasserstein",
    "adversarial_objective",
]

"""Adversarial objectives, which generator and discriminator minimise, as functions of logits; gradient penalties."""

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

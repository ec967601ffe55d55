"""Adversarial objectives: what generator and discriminator minimise, as functions of the logits."""

from lightning_lead.objectives.adversarial import (
    AdversarialObjective,
    Hinge,
    Minimax,
    NonSaturating,
    Wasserstein,
    adversarial_objective,
)

__all__ = ["AdversarialObjective", "Hinge", "Minimax", "NonSaturating", "Wasserstein", "adversarial_objective"]

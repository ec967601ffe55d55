"""Adversarial objectives: what the generator and the discriminator minimise, given logits."""

from lightning_lead.objectives.adversarial import (
    AdversarialObjective,
    Hinge,
    Minimax,
    NonSaturating,
    Wasserstein,
    adversarial_objective,
)

__all__ = ["AdversarialObjective", "Hinge", "Minimax", "NonSaturating", "Wasserstein", "adversarial_objective"]

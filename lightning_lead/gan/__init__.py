"""GANs as games: the module, and how its losses are looked at, penalised, and found to have a structure."""

from lightning_lead.gan.module import LeadGANModule

__all__ = ["LeadGANModule"]

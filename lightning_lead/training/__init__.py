"""The Lightning adapter: any two players as a LightningModule, one game step per `training_step`."""

from lightning_lead.training.mixin import LeadMixin
from lightning_lead.training.module import LeadModule

__all__ = ["LeadMixin", "LeadModule"]

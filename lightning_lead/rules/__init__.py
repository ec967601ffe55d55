"""Game optimizers, one file each: gradients in, a direction out. See `rules.base` for how to add one."""

from lightning_lead.rules.base import AbstractGameRule, RuleState
from lightning_lead.rules.gradient_play import GradientPlay
from lightning_lead.rules.lead import LEAD

__all__ = ["LEAD", "AbstractGameRule", "GradientPlay", "RuleState"]

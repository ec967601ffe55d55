"""Game optimizers, one file each: gradients in, a direction out. See `rules.base` for how to add one.

Every class that is exported here can be named on the command line, stands in the table of `docs/choosing.md`, and is
held to the contract in `tests/contract`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _EXPORTS, where type checkers and editors can see them
    from lightning_lead.rules.acgd import ACGD
    from lightning_lead.rules.alex_gda import AlexGDA
    from lightning_lead.rules.base import AbstractGameRule, Cost, RuleNeeds, RuleState
    from lightning_lead.rules.cgd import CGD
    from lightning_lead.rules.consensus import ConsensusOptimization
    from lightning_lead.rules.extra_adam import ExtraAdam
    from lightning_lead.rules.extragradient import Extragradient
    from lightning_lead.rules.gradient_play import GradientPlay
    from lightning_lead.rules.lead import LEAD
    from lightning_lead.rules.level_k import LevelK
    from lightning_lead.rules.lookahead_minmax import LookaheadMinmax
    from lightning_lead.rules.negative_adam import NegativeAdam
    from lightning_lead.rules.nu_pi import NuPI
    from lightning_lead.rules.ode_gan import ODEGAN
    from lightning_lead.rules.optimistic_adam import OptimisticAdam
    from lightning_lead.rules.optimistic_gradient import OptimisticGradient
    from lightning_lead.rules.past_extragradient import PastExtragradient
    from lightning_lead.rules.polyak_momentum import PolyakMomentum
    from lightning_lead.rules.prediction import Prediction
    from lightning_lead.rules.symplectic_adjustment import SymplecticGradientAdjustment

__all__ = [
    "ACGD",
    "CGD",
    "LEAD",
    "ODEGAN",
    "AbstractGameRule",
    "AlexGDA",
    "ConsensusOptimization",
    "Cost",
    "ExtraAdam",
    "Extragradient",
    "GradientPlay",
    "LevelK",
    "LookaheadMinmax",
    "NegativeAdam",
    "NuPI",
    "OptimisticAdam",
    "OptimisticGradient",
    "PastExtragradient",
    "PolyakMomentum",
    "Prediction",
    "RuleNeeds",
    "RuleState",
    "SymplecticGradientAdjustment",
]

_EXPORTS = {  # name -> the module that it is loaded from, on first use
    "ACGD": "lightning_lead.rules.acgd",
    "AlexGDA": "lightning_lead.rules.alex_gda",
    "AbstractGameRule": "lightning_lead.rules.base",
    "Cost": "lightning_lead.rules.base",
    "RuleNeeds": "lightning_lead.rules.base",
    "RuleState": "lightning_lead.rules.base",
    "CGD": "lightning_lead.rules.cgd",
    "ConsensusOptimization": "lightning_lead.rules.consensus",
    "ExtraAdam": "lightning_lead.rules.extra_adam",
    "Extragradient": "lightning_lead.rules.extragradient",
    "GradientPlay": "lightning_lead.rules.gradient_play",
    "LEAD": "lightning_lead.rules.lead",
    "LevelK": "lightning_lead.rules.level_k",
    "LookaheadMinmax": "lightning_lead.rules.lookahead_minmax",
    "NegativeAdam": "lightning_lead.rules.negative_adam",
    "NuPI": "lightning_lead.rules.nu_pi",
    "ODEGAN": "lightning_lead.rules.ode_gan",
    "OptimisticAdam": "lightning_lead.rules.optimistic_adam",
    "OptimisticGradient": "lightning_lead.rules.optimistic_gradient",
    "PastExtragradient": "lightning_lead.rules.past_extragradient",
    "PolyakMomentum": "lightning_lead.rules.polyak_momentum",
    "Prediction": "lightning_lead.rules.prediction",
    "SymplecticGradientAdjustment": "lightning_lead.rules.symplectic_adjustment",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = globals()[name] = getattr(import_module(_EXPORTS[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Game optimizers, one file each: gradients in, a direction out. See `rules.base` for how to add one.

Every class that is exported here can be named on the command line, stands in the table of `docs/choosing.md`, and is
held to the contract in `tests/contract`.
"""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes

if TYPE_CHECKING:  # the same names as below, where type checkers and editors can see them
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

__getattr__: Any = lazy_attributes(
    __name__,
    {
        ".acgd": "ACGD",
        ".alex_gda": "AlexGDA",
        ".base": "AbstractGameRule Cost RuleNeeds RuleState",
        ".cgd": "CGD",
        ".consensus": "ConsensusOptimization",
        ".extra_adam": "ExtraAdam",
        ".extragradient": "Extragradient",
        ".gradient_play": "GradientPlay",
        ".lead": "LEAD",
        ".level_k": "LevelK",
        ".lookahead_minmax": "LookaheadMinmax",
        ".negative_adam": "NegativeAdam",
        ".nu_pi": "NuPI",
        ".ode_gan": "ODEGAN",
        ".optimistic_adam": "OptimisticAdam",
        ".optimistic_gradient": "OptimisticGradient",
        ".past_extragradient": "PastExtragradient",
        ".polyak_momentum": "PolyakMomentum",
        ".prediction": "Prediction",
        ".symplectic_adjustment": "SymplecticGradientAdjustment",
    },
)

"""Adversarial training as a game: attacks as players, their losses, and accuracy under attacks of other libraries."""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes

if TYPE_CHECKING:  # the same names as below, where type checkers and editors can see them
    from lightning_lead.robust.base import AbstractAttack
    from lightning_lead.robust.evaluation import AttackSuite
    from lightning_lead.robust.losses import MART, TRADES, AbstractRobustLoss, CrossEntropy, robust_loss
    from lightning_lead.robust.module import RobustModule
    from lightning_lead.robust.sample_attacks import AbstractSampleAttack, FGSMAttack, FreeAttack, PGDAttack
    from lightning_lead.robust.shared_attacks import Patch, PerturbationNetwork, UniversalPerturbation
    from lightning_lead.robust.sign_descent import SignDescent

__all__ = [
    "AbstractAttack",
    "AbstractRobustLoss",
    "AbstractSampleAttack",
    "AttackSuite",
    "CrossEntropy",
    "FGSMAttack",
    "FreeAttack",
    "MART",
    "PGDAttack",
    "Patch",
    "PerturbationNetwork",
    "RobustModule",
    "SignDescent",
    "TRADES",
    "UniversalPerturbation",
    "robust_loss",
]

__getattr__: Any = lazy_attributes(
    __name__,
    {
        ".base": "AbstractAttack",
        ".evaluation": "AttackSuite",
        ".losses": "AbstractRobustLoss CrossEntropy MART TRADES robust_loss",
        ".module": "RobustModule",
        ".sample_attacks": "AbstractSampleAttack FGSMAttack FreeAttack PGDAttack",
        ".shared_attacks": "Patch PerturbationNetwork UniversalPerturbation",
        ".sign_descent": "SignDescent",
    },
)

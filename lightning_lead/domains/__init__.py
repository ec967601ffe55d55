"""Learning that holds out of distribution: domain-adversarial training, group DRO, IRM games, and their baselines."""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes

if TYPE_CHECKING:  # the same names as below, where type checkers and editors can see them
    from lightning_lead.domains._base import AbstractDomainModule
    from lightning_lead.domains._batch import DomainBatch
    from lightning_lead.domains.accuracy import DomainAccuracy
    from lightning_lead.domains.dann import DANNModule
    from lightning_lead.domains.erm import ERMModule
    from lightning_lead.domains.group_dro import GroupDROModule
    from lightning_lead.domains.irm import IRMv1Module
    from lightning_lead.domains.irm_games import IRMGamesModule

__all__ = [
    # modules
    "DANNModule",
    "GroupDROModule",
    "IRMGamesModule",
    "IRMv1Module",
    "ERMModule",
    "AbstractDomainModule",
    # around them
    "DomainAccuracy",
    "DomainBatch",
]

__getattr__: Any = lazy_attributes(
    __name__,
    {
        "._base": "AbstractDomainModule",
        "._batch": "DomainBatch",
        ".accuracy": "DomainAccuracy",
        ".dann": "DANNModule",
        ".erm": "ERMModule",
        ".group_dro": "GroupDROModule",
        ".irm": "IRMv1Module",
        ".irm_games": "IRMGamesModule",
    },
)

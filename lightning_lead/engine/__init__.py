"""A game step, played without Lightning: the strategy, its turns, their losses, and the step over all of them.

    turns of a game step ─→ oracle (derivatives) ─→ rule (a direction) ─→ optimizer (a move) ─→ the next turn

`GameStep` plays it for whoever hosts it: the Lightning adapter in `training`, `analysis`, or a plain loop.
"""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes

if TYPE_CHECKING:  # the same names as below, where type checkers and editors can see them
    from lightning_lead.engine._batches import batch_size, split_batch
    from lightning_lead.engine.lead_strategy import LEADStrategy
    from lightning_lead.engine.losses import BatchLosses
    from lightning_lead.engine.named_rules import as_game, find_game, game_names, name_game
    from lightning_lead.engine.step import GameStep, PlayedStep
    from lightning_lead.engine.strategy import GameStrategy, PlayedTurn
    from lightning_lead.engine.turns import Turn

__all__ = [
    "BatchLosses",
    "GameStep",
    "GameStrategy",
    "LEADStrategy",
    "PlayedStep",
    "PlayedTurn",
    "Turn",
    "as_game",
    "batch_size",
    "find_game",
    "game_names",
    "name_game",
    "split_batch",
]

__getattr__: Any = lazy_attributes(
    __name__,
    {
        ".lead_strategy": "LEADStrategy",
        ".losses": "BatchLosses",
        ".named_rules": "as_game find_game game_names name_game",
        ".step": "GameStep PlayedStep",
        ".strategy": "GameStrategy PlayedTurn",
        "._batches": "batch_size split_batch",
        ".turns": "Turn",
    },
)

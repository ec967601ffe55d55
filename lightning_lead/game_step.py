"""One game step, turn by turn: a direction, the optimizers, and on to the next player."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus.noise import mix_seed
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.placement import Placement
from lightning_lead.calculus.steps import Steps
from lightning_lead.calculus.terms import OracleStatistics
from lightning_lead.turns import Turn

if TYPE_CHECKING:
    from lightning_lead.mixin import LeadMixin

__all__ = ["GameStep", "PlayedStep"]


class PlayedStep(NamedTuple):
    """What there is to log of a game step."""

    statistics: dict[str, OracleStatistics]  # player -> of its last update; its cross term is that of the first
    notes: dict[str, float]  # of the rule
    evaluations: Counter[str]  # how many of each kind, over all turns


class GameStep:
    """The turns of one game step.

    Args:
        module: whose game, optimizers and losses they are.
        turns: in the order of play.
        live: name -> the players' parameters.
        seed: of everything random in the step.
    """

    def __init__(
        self, module: LeadMixin, turns: Sequence[Turn], live: Mapping[str, Sequence[nn.Parameter]], seed: int
    ) -> None:
        self._module, self._turns, self._live, self._seed = module, turns, live, seed
        self._steps = Steps(live, module.trainer.optimizers, clip=module.clip)
        self._place = Placement(module, live)

    def play(self) -> PlayedStep:
        """Every turn's direction, and the optimizers' steps along it."""
        game = self._module.game
        step = PlayedStep({}, {}, Counter())
        for index, turn in enumerate(self._turns):
            oracle = self._oracle(index)
            played = game.play_turn(oracle, turn.players, self._live)
            for name, seen in played.statistics.items():
                first = step.statistics.get(name, seen)  # of several inner steps, only the first one has a cross term
                step.statistics[name] = seen._replace(cross_norm=first.cross_norm, cosine=first.cosine)
            step.notes.update(played.notes)
            step.evaluations.update(played.evaluations)
            self._move(turn, skipped=played.skipped, last=index == len(self._turns) - 1)
        return step

    def _oracle(self, index: int) -> GameOracle:
        """That of a turn; not kept, because it knows this step, and a circle would keep its graphs and batches."""
        return self._module._oracle(
            self._turns[index],
            self._live,
            mix_seed(self._seed, index),
            place=self._place,
            steps=self._steps,
        )

    def _move(self, turn: Turn, *, skipped: bool, last: bool) -> None:
        """Clip, then step the optimizers that own the moving players; only one step of the last turn is counted.

        Where the turn is skipped the step is made without gradients: it moves nothing, and is counted.
        """
        module, live = self._module, self._live
        moving = [p for name in turn.players for p in live[name]]
        settles = module.game.rule.settles and not skipped
        before = {name: tuple(p.detach().clone() for p in params) for name, params in live.items()} if settles else {}
        if module.clip is not None and not skipped:
            for name in turn.players:
                nn.utils.clip_grad_norm_(live[name], module.clip)
        self._steps.settle_memory(keep=not skipped)
        ids = {id(p) for p in moving}
        optimizers = module.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        owners = [o for o in optimizers if any(id(p) in ids for group in o.param_groups for p in group["params"])]
        if not owners:
            raise ConfigurationError(
                f"Cannot move {turn.players} because no optimizer holds their parameters; "
                "return one from configure_optimizers()"
            )
        for optimizer in owners:
            counted = last and optimizer is owners[-1]
            # the wrapped step is what Lightning counts as a global step, and one game step is one global step
            (optimizer if counted else optimizer.optimizer).step()
        for parameter in moving:
            parameter.grad = None
        if settles:
            module.game.settle(before, live, turn.players)

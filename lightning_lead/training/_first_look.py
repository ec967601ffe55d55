"""The first look: what has to be known of losses before a rule that evaluates them again moves a weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from lightning_lead._errors import HigherDerivativeError
from lightning_lead._lightning import LightningModule, rank_zero_info, rank_zero_warn
from lightning_lead._sharding import fsdp_units, reshard
from lightning_lead.calculus._chain.dual import uncompiled
from lightning_lead.calculus._graph import LossGraph
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.replay import frozen_buffers
from lightning_lead.engine._probe import no_reversals, probe_game
from lightning_lead.engine.losses import BatchLosses
from lightning_lead.engine.strategy import GameStrategy
from lightning_lead.rules.base import AbstractGameRule
from lightning_lead.training._purity import check_repeatable
from lightning_lead.training._trainer_checks import check_trainer

__all__ = ["look_before", "probe_module", "warn_if_apart"]


def look_before(
    module: LightningModule,
    game: GameStrategy,
    losses: BatchLosses,
    players: Collection[str],
    probe: Callable[[], None],
    *,
    ignored: Collection[str],
) -> None:
    """Refuse losses that cannot be evaluated again, or differentiated again, before a derivative is taken; then probe.

    Where a layer has no second derivative, the rule is replaced by the one that it names for this, if there is one.
    `ignored` are attributes of the module that are no state of the losses.
    """
    try:
        with torch.enable_grad(), uncompiled(), no_reversals(game.rule):

            def evaluate() -> Mapping[str, Tensor]:
                values = losses({}, frozenset(players), replay=True)
                reshard(fsdp_units(module))  # parameters are compared, which a forward leaves whole
                return values

            check_repeatable(evaluate, module, game.rule, ignored=ignored)
        probe()
    except HigherDerivativeError as error:
        instead = game.rule.differentiating_once()
        if instead is None:
            raise
        rank_zero_info(f"{instead!r} plays in the place of {game.rule!r}: {error}")
        check_trainer(module.trainer, instead)
        game.rule = instead
        probe()


def probe_module(module: nn.Module, oracle: GameOracle, rule: AbstractGameRule) -> None:
    """Take every derivative that the rule will ask for; gradients and buffers of the module stay as they are."""
    grads = [(p, p.grad) for p in module.parameters()]
    try:
        with frozen_buffers(module):  # in reverse passes as well, where activation checkpointing runs forwards again
            probe_game(oracle, module, rule)
    finally:
        for parameter, grad in grads:
            parameter.grad = grad


def warn_if_apart(rule: AbstractGameRule, graphs: Iterable[LossGraph]) -> None:
    """Warn if no loss of the first game step of both reached the other player, which the rule is made for."""
    if rule.needs.uses_opponent and not any(graph.meets for graph in graphs):
        rank_zero_warn(
            f"No loss reaches the other player's parameters in the first game step, so {rule.name} plays "
            "as plain descent; is an output detached, or an opponent left out of a loss?"
        )

"""Trainer settings, optimizers and schedulers that a game step cannot honour, refused before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import (
    BatchSizeFinder,
    LearningRateFinder,
    LightningModule,
    StochasticWeightAveraging,
)
from lightning_lead.calculus.lookahead import Lookahead
from lightning_lead.rules.base import AbstractGameRule
from lightning_lead.training._sharding_checks import check_sharding

__all__ = ["check_configuration", "check_optimizers", "check_trainer"]


_NOT_WITH_A_GAME: dict[type, tuple[str, str]] = {
    BatchSizeFinder: (
        "find a batch size",
        "its trial steps come before the game starts; try the size that you want by Trainer(max_steps=3)",
    ),
    LearningRateFinder: (
        "find a learning rate",
        "it looks for a loss that falls, and in a game neither has to; take those of docs/choosing.md",
    ),
    StochasticWeightAveraging: (
        "average weights",
        "it has a schedule of its own, and plays an epoch more for batch norm; use GeneratorEMA(halflife_images=...)",
    ),
}


_HALF_WEIGHTS = {"bf16-true": "bf16", "16-true": "fp16"}


def check_trainer(trainer: Any, rule: AbstractGameRule) -> None:
    """Refuse Trainer settings that cannot be honoured.

    These are `gradient_clip_val`, `accumulate_grad_batches`, sharded parameters under a rule that differentiates a
    gradient, weights in half precision under a rule that subtracts gradients of one batch from each other, and
    callbacks that train in their own way.
    """
    for callback in trainer.callbacks:
        for kind, (what, reason) in _NOT_WITH_A_GAME.items():
            if isinstance(callback, kind):
                raise ConfigurationError(f"Cannot {what} by {type(callback).__name__} because {reason}")
    if trainer.gradient_clip_val:
        raise ConfigurationError(
            "Cannot honour Trainer(gradient_clip_val=...) because a game step has one update per player; "
            f"pass clip={trainer.gradient_clip_val} to the module instead (got {trainer.gradient_clip_val})"
        )
    if trainer.accumulate_grad_batches != 1:
        raise ConfigurationError(
            "Cannot honour Trainer(accumulate_grad_batches=...) because a game step has one update per player; use a "
            f"larger batch and accumulate={trainer.accumulate_grad_batches} on the module, which splits it "
            f"(got {trainer.accumulate_grad_batches})"
        )
    if (half := _HALF_WEIGHTS.get(str(trainer.precision))) and rule.needs.cancels:
        raise ConfigurationError(
            f"Cannot train with {rule.name} on {half} weights because it subtracts two gradients that agree in most of "
            f"their bits, and what is left is noise; use '{half.removeprefix('fp')}-mixed', which computes the "
            f"difference in float32 (got {trainer.precision!r})"
        )
    check_sharding(trainer, rule)


_LEAST_EPS = 1e-4
"""Of an optimizer of fp16 weights: squares of gradients below 2e-4 are zero there, and so is an eps below 3e-8."""


def check_configuration(module: Any) -> None:
    """Refuse a `frequency` beside an optimizer, as soon as Lightning asks `module` for optimizers in this fit.

    Lightning keeps the optimizers alone of what it is handed, so nobody could see it later.
    """
    own = vars(module).get("configure_optimizers")  # the one of a command line lies in the instance
    missing = own is None and type(module).configure_optimizers is LightningModule.configure_optimizers
    left_over = isinstance(own, partial) and own.func is _configured  # of a fit that ended before it asked
    if not (missing or left_over):
        vars(module)["configure_optimizers"] = partial(_configured, module, own)


def _configured(module: Any, own: Any) -> Any:
    vars(module).pop("configure_optimizers", None)
    if own is not None:
        vars(module)["configure_optimizers"] = own
    configured = module.configure_optimizers()
    for each in configured if isinstance(configured, (list, tuple)) else [configured]:
        if isinstance(each, dict) and "frequency" in each:
            raise ConfigurationError(
                f"Cannot step an optimizer by its frequency because Lightning 2 leaves it aside; take it out (got "
                f"{each['frequency']!r}), and say by discriminator_steps=, or by the turns that game_turns(batch) "
                "returns, how often a player moves in a game step"
            )
    return configured


def check_optimizers(trainer: Any, players: Mapping[str, Sequence[Tensor]], rule: AbstractGameRule) -> None:
    """Refuse optimizers and schedulers that a game step would silently leave aside, or that the rule cannot use.

    Every parameter of a player belongs to one optimizer, and no optimizer holds others. A scheduler may not wait for a
    metric. A rule that takes plain steps needs an optimizer without a memory; one that reads the momentum needs it.
    """
    for optimizer in trainer.optimizers if rule.needs.requires_sgd else []:
        groups = optimizer.param_groups
        if type(optimizer) is not torch.optim.SGD or any(g["momentum"] or g["weight_decay"] for g in groups):
            raise ConfigurationError(
                f"Cannot move by {type(optimizer).__name__} because {rule.name} works out whole steps itself; return "
                "torch.optim.SGD without momentum or weight decay from configure_optimizers(), or do not override it"
            )
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, (torch.optim.LBFGS, torch.optim.SparseAdam)):
            raise ConfigurationError(
                f"Cannot move by {type(optimizer).__name__} because a game step hands over one dense direction per "
                "turn, and no losses to evaluate again; use another optimizer, such as torch.optim.Adam"
            )
        if any(group.get("maximize") for group in optimizer.param_groups):
            raise ConfigurationError(
                f"Cannot move by {type(optimizer).__name__}(maximize=True) because rules take every player's loss for "
                "one that it minimises; return the loss with a minus, and leave maximize out"
            )
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            eps = group.get("eps")  # of Adafactor it is a pair, of numbers that follow the dtype
            halves = any(p.dtype == torch.float16 for p in group["params"])
            if halves and isinstance(eps, (int, float)) and eps < _LEAST_EPS:
                raise ConfigurationError(
                    f"Cannot move fp16 weights by {type(optimizer).__name__}(eps={eps}) because its squares "
                    "and its eps are zero in fp16, and it would divide by them; use precision='16-mixed', pass "
                    f"eps={_LEAST_EPS} or more, or use torch.optim.SGD (got precision {trainer.precision!r})"
                )
    for player in players if rule.needs.reads_momentum else []:
        if any(p.requires_grad for p in players[player]):
            Lookahead(players, trainer.optimizers).lag(player)
    owners = Counter(id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"])
    for name, parameters in players.items():
        if several := sum(owners[id(p)] > 1 for p in parameters):
            raise ConfigurationError(
                f"Cannot train {several} parameter(s) of player {name!r} because several optimizers hold them, and "
                "each would step them in every turn; let one hold them, and add the other's loss to the player's"
            )
        if lost := sum(owners[id(p)] == 0 for p in parameters if p.requires_grad):
            raise ConfigurationError(
                f"Cannot train {lost} parameter(s) of player {name!r} because no optimizer holds them; return one from "
                "configure_optimizers(), or freeze them with requires_grad_(False)"
            )
    owned = {id(p) for parameters in players.values() for p in parameters}
    for optimizer in trainer.optimizers:
        held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        if strangers := sum(id(p) not in owned for p in held):
            raise ConfigurationError(
                f"Cannot train {strangers} parameter(s) that {type(optimizer).__name__} holds because they belong to "
                f"no player; return them from players(), or leave them out of the optimizer (players: {list(players)})"
            )
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigurationError(
                "Cannot step ReduceLROnPlateau because a game has no loss that falls to a plateau; "
                "use a scheduler that counts steps, such as LinearLR"
            )

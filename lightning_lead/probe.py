"""What is refused before the first step, and why: Trainer settings and layers that a rule cannot work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError, DifferentiationError, HigherDerivativeError, first_line
from lightning_lead._typing import Vector
from lightning_lead.calculus.float32 import full_float32
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.calculus.players import norm, opponent_of
from lightning_lead.calculus.steps import Steps
from lightning_lead.calculus.terms import CrossTerm, HessianTerm
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["check_optimizers", "check_trainer", "made_up_cross", "probe_game", "suspects"]

_OFTEN_ONCE_DIFFERENTIABLE = (nn.SyncBatchNorm, nn.MultiheadAttention, nn.RNNBase, nn.TransformerEncoderLayer)


def check_trainer(trainer: Any, rule: AbstractGameRule) -> None:
    """Refuse Trainer settings that cannot be honoured.

    Args:
        trainer: the Lightning Trainer, before it has set anything up.
        rule: the game optimizer.

    Raises:
        ConfigurationError: `gradient_clip_val`, `accumulate_grad_batches`, fp16, a strategy that shards parameters, or
            bf16 weights under a rule that subtracts gradients of one batch from each other.

    Example:
        >>> import pytorch_lightning
        >>> from lightning_lead.rules import LEAD
        >>> trainer = pytorch_lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> check_trainer(trainer, LEAD())
    """
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
    if str(trainer.precision) in ("16-mixed", "16-true"):
        raise ConfigurationError(
            "Cannot train a game in fp16 because a loss scale would enter products of two players' gradients; "
            f"use precision='bf16-mixed' or '32-true' (got {trainer.precision!r})"
        )
    if str(trainer.precision) == "bf16-true" and rule.subtracts:
        raise ConfigurationError(
            f"Cannot train with {rule.name} on bf16 weights because it subtracts two gradients that agree in most of "
            "their bits, and what is left is noise; use 'bf16-mixed', which computes the difference in float32 "
            f"(got {trainer.precision!r})"
        )
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
        raise ConfigurationError(
            "Cannot train a game on sharded parameters because the cross term needs both players whole on every rank; "
            f"use strategy='ddp' (got {type(trainer.strategy).__name__})"
        )


def check_optimizers(trainer: Any, players: Mapping[str, Sequence[Tensor]], rule: AbstractGameRule) -> None:
    """Refuse optimizers and schedulers that a game step would silently leave aside, or that the rule cannot use.

    Args:
        trainer: after its optimizers are there.
        players: name -> live parameters.
        rule: the game optimizer.

    Raises:
        ConfigurationError: an optimizer holds trainable parameters that belong to no player, a scheduler waits for a
            metric, which a game step does not have, a rule that takes plain steps meets an optimizer with a memory, or
            one that reads the momentum meets an optimizer that does not say it.
    """
    for optimizer in trainer.optimizers if rule.plain_steps else []:
        groups = optimizer.param_groups
        if type(optimizer) is not torch.optim.SGD or any(g["momentum"] or g["weight_decay"] for g in groups):
            raise ConfigurationError(
                f"Cannot move by {type(optimizer).__name__} because {rule.name} works out whole steps itself; return "
                "torch.optim.SGD without momentum or weight decay from configure_optimizers(), or do not override it"
            )
    for player in players if rule.reads_momentum else []:
        Steps(players, trainer.optimizers).lag(player)
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


def probe_game(oracle: GameOracle, module: nn.Module, rule: AbstractGameRule) -> None:
    """Take every derivative that the rule will ask for once, so that what cannot be differentiated shows at once.

    Args:
        oracle: of the first batch; exhaustive, and it must not reduce over ranks.
        module: whose layers are named in the error.
        rule: the game optimizer.

    Raises:
        HigherDerivativeError: a layer without a second derivative, or players who meet through a detach.
        DifferentiationError: a player that the other one's loss ignores.
    """
    if rule.zero_sum:
        with full_float32():
            _check_zero_sum(oracle, rule)
    for player in oracle.names:
        _take_gradient(oracle, player, rule)
    for player in oracle.names:
        if rule.second_order:
            cross = made_up_cross(oracle, player, rule, weight=1.0)
            cross = cross._replace(fraction=rule.cross_fraction)
            try:
                oracle.gradient(player, at=oracle.point, cross=cross)
            except torch.OutOfMemoryError:
                raise
            except DifferentiationError as error:  # players who never meet, or meet through a detach
                raise HigherDerivativeError(str(error)) from error
            except RuntimeError as error:
                found = suspects(module)
                named = f"; look at {', '.join(found)}" if found else ""
                raise HigherDerivativeError(
                    f"Cannot play {rule.name}, which differentiates the gradient of player {player!r}, because a layer "
                    f"has no second derivative{named}. Use {rule.first_order}; or, for fused attention, run under "
                    f"torch.nn.attention.sdpa_kernel(SDPBackend.MATH) (got: {first_line(error)})"
                ) from error
        elif rule.couples and not oracle.interacts(player):
            raise DifferentiationError(
                f"Cannot form the cross term of player {player!r} because its loss does not depend on "
                f"{opponent_of(player, oracle.names)!r}; "
                "the players must meet in one loss (is an output detached, or an opponent left out of the loss?)"
            )


def _take_gradient(oracle: GameOracle, player: str, rule: AbstractGameRule) -> None:
    """Take a gradient, by `backward()` if need be; a mistake in a network shows here, under its own name."""
    found: Vector | None = None
    failed: RuntimeError | None = None
    by_grad = not oracle.by_backward
    try:
        found = oracle.gradient(player, at=oracle.point)
    except RuntimeError as error:
        if "does not require grad" in str(error):
            raise DifferentiationError(
                f"Cannot take the gradient of player {player!r} because a loss takes derivatives itself, by parameters "
                "of the other player, which are constants in this turn; override wanted_losses(batch, wanted) and "
                f"leave out what is not wanted (got: {first_line(error)})"
            ) from error
        reentrant = "checkpoint" in str(error) and ".backward()" in str(error)
        if not reentrant and not isinstance(error, DifferentiationError):
            raise
        failed = error
    # `autograd.grad` does not see what is inside of a reentrant checkpoint: it raises, or finds nothing there
    if by_grad and (found is None or not all(part.any() for part in found)):
        oracle.by_backward = _finds_more(oracle, player, found)
        if oracle.by_backward and rule.second_order:
            raise HigherDerivativeError(
                f"Cannot play {rule.name}, which differentiates the gradient of player {player!r}, through reentrant "
                f"activation checkpointing; pass use_reentrant=False to it, or use {rule.first_order}"
            ) from failed
    if failed is not None and not (by_grad and oracle.by_backward):
        raise failed


def _finds_more(oracle: GameOracle, player: str, found: Vector | None) -> bool:
    """Return True if `backward()` gets through where `autograd.grad` failed, or to parameters that it missed."""
    oracle.by_backward = True
    try:
        whole = oracle.gradient(player, at=oracle.point)
    except RuntimeError:
        return False
    finally:
        oracle.by_backward = False
    return found is None or any(w.any() and not f.any() for w, f in zip(whole, found, strict=True))


def _check_zero_sum(oracle: GameOracle, rule: AbstractGameRule) -> None:
    """Both losses' mixed second derivatives must cancel; what depends on one player alone does not matter."""
    for player in oracle.names:
        opponent = opponent_of(player, oracle.names)
        moved = tuple(1e-3 * p + 1e-6 for p in oracle.point[opponent])
        own, theirs = (HessianTerm(loss, opponent, moved) for loss in (player, opponent))
        size = norm(oracle.hessian_product(player, [own]))
        off = norm(oracle.hessian_product(player, [own, theirs]))
        if not off <= 10 * torch.finfo(size.dtype).eps ** 0.5 * size:
            raise ConfigurationError(
                f"Cannot play {rule.name} because it is defined for zero-sum games and these losses are not opposites: "
                f"their mixed second derivatives differ by {float(off / size):.1e} of their size; use a zero-sum "
                "objective such as 'minimax' or 'wasserstein', or a solver for any game, solver='gmres'"
            )


def made_up_cross(oracle: GameOracle, player: str, rule: AbstractGameRule, *, weight: float) -> CrossTerm:
    """A cross term as the rule asks for it, before anybody has moved."""
    displacement = tuple(1e-3 * p + 1e-6 for p in oracle.point[opponent_of(player, oracle.names)])
    return CrossTerm(weight, displacement, rule.form if rule.second_order else "difference")


def suspects(module: nn.Module) -> list[str]:
    """The layers of kinds that often have no second derivative, as "name (Kind)".

    Args:
        module: where to look.

    Example:
        >>> suspects(nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2)))
        ['1 (SyncBatchNorm)']
    """
    kinds = (*_OFTEN_ONCE_DIFFERENTIABLE, torch._dynamo.eval_frame.OptimizedModule)
    return [f"{name} ({type(m).__name__})" for name, m in module.named_modules() if isinstance(m, kinds)]

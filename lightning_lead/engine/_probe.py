"""Probe before the first step: every derivative that the rule will ask for, taken once on the first batch."""

from __future__ import annotations

import torch
from torch import nn

from lightning_lead._errors import ConfigurationError, DifferentiationError, HigherDerivativeError, first_line
from lightning_lead._types import Vector
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.calculus._players import norm, opponent_of
from lightning_lead.calculus._terms import CrossTerm, HessianTerm
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["made_up_cross", "probe_game", "suspects"]

_OFTEN_ONCE_DIFFERENTIABLE = (nn.SyncBatchNorm, nn.MultiheadAttention, nn.RNNBase, nn.TransformerEncoderLayer)


def probe_game(oracle: GameOracle, module: nn.Module, rule: AbstractGameRule) -> None:
    """Take every derivative that the rule will ask for, on the first batch and this rank alone.

    Raises a HigherDerivativeError for a layer without a second derivative, or players who meet through a detach; and a
    DifferentiationError if neither loss depends on the opponent. `module` names the layers in the message.
    """
    if rule.needs.zero_sum:
        with full_float32():
            _check_zero_sum(oracle, rule)
    for player in oracle.names:
        _take_gradient(oracle, player, rule)
    for player in oracle.names:
        if rule.needs.second_order:
            cross = made_up_cross(oracle, player, rule, weight=1.0)
            cross = cross._replace(fraction=rule.needs.cross_fraction)
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
                    f"has no second derivative{named}. Use {rule.needs.fallback}; or, for fused attention, run under "
                    f"torch.nn.attention.sdpa_kernel(SDPBackend.MATH) (got: {first_line(error)})"
                ) from error
    # one loss may ignore the opponent, as before an adversarial term begins; if both do, there is no game
    if rule.needs.uses_opponent and not any(oracle.interacts(player) for player in oracle.names):
        player = oracle.names[0]
        raise DifferentiationError(
            f"Cannot form the cross term of player {player!r} because its loss does not depend on "
            f"{opponent_of(player, oracle.names)!r}, nor the other's on {player!r}; "
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
    if by_grad and (found is None or not all(tensor.any() for tensor in found)):
        oracle.by_backward = _finds_more(oracle, player, found)
        if oracle.by_backward and rule.needs.second_order:
            raise HigherDerivativeError(
                f"Cannot play {rule.name}, which differentiates the gradient of player {player!r}, through reentrant "
                f"activation checkpointing; pass use_reentrant=False to it, or use {rule.needs.fallback}"
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
    """Refuse losses whose mixed second derivatives do not cancel; terms of one player alone may differ."""
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
    """Return a cross term as the rule asks for it, for a displacement that is made up."""
    displacement = tuple(1e-3 * p + 1e-6 for p in oracle.point[opponent_of(player, oracle.names)])
    return CrossTerm(weight, displacement, rule.needs.form if rule.needs.second_order else "difference")


def suspects(module: nn.Module) -> list[str]:
    """Return layers of kinds that often have no second derivative, as "name (Kind)"."""
    kinds = (*_OFTEN_ONCE_DIFFERENTIABLE, torch._dynamo.eval_frame.OptimizedModule)
    return [f"{name} ({type(m).__name__})" for name, m in module.named_modules() if isinstance(m, kinds)]

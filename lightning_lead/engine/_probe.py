"""Probe before the first step: every derivative that the rule will ask for, taken once on the first batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError, DifferentiationError, HigherDerivativeError, first_line
from lightning_lead.calculus._float32 import full_float32
from lightning_lead.calculus._players import joined, norm, opponent_of, opponents_of
from lightning_lead.calculus._terms import CrossTerm, HessianTerm
from lightning_lead.calculus.oracle import GameOracle
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["made_up_cross", "naming_suspects", "no_reversals", "probe_game", "suspects"]

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
            f"{' or '.join(map(repr, opponents_of(player, oracle.names)))}, nor any other's on its opponents; "
            "the players must meet in one loss (is an output detached, or an opponent left out of the loss?)"
        )


def _take_gradient(oracle: GameOracle, player: str, rule: AbstractGameRule) -> None:
    """Take a gradient, which tells if `backward()` has to; a mistake in a network shows here, under its own name."""
    oracle.gradient(player, at=oracle.point)
    if rule.needs.second_order and oracle.graphs[player].by_backward:
        raise HigherDerivativeError(
            f"Cannot play {rule.name}, which differentiates the gradient of player {player!r}, through reentrant "
            f"activation checkpointing; pass use_reentrant=False to it, or use {rule.needs.fallback}"
        )


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
    displacement = tuple(1e-3 * p + 1e-6 for p in joined(oracle.point, opponents_of(player, oracle.names)))
    return CrossTerm(weight, displacement, rule.needs.form if rule.needs.second_order else "difference")


@contextmanager
def no_reversals(rule: AbstractGameRule) -> Iterator[None]:
    """Refuse functions that return their input and not its gradient, if the rule differentiates gradients.

    Of a gradient reversal layer plain gradients are what its user wants. A derivative of a gradient goes through the
    layer once more, so it gets the sign of a minimum where the players play against each other.
    """
    if not rule.needs.second_order:
        yield
        return
    function: Any = torch.autograd.Function
    original, found = vars(function)["apply"], set[str]()

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        output = original.__get__(None, cls)(*args, **kwargs)
        theirs = cls.__module__.partition(".")[0] == "torch"  # whose checkpoints have a function that has no backward
        if not theirs and isinstance(output, Tensor) and any(_reverses(x, output) for x in args):
            found.add(cls.__name__)
        return output

    function.apply = classmethod(apply)
    try:
        yield
    finally:
        function.apply = original
    if found:
        raise HigherDerivativeError(
            f"Cannot play {rule.name}, which differentiates gradients, through {', '.join(sorted(found))}, whose "
            "backward is not the derivative of its forward, as of a gradient reversal layer: the cross term would have "
            "a wrong sign. Leave the layer out and put the sign into the losses (one player's is minus the other's), "
            f"or use {rule.needs.fallback}"
        )


def _reverses(x: Any, output: Tensor) -> bool:
    """True if an output is its input, and the derivative of the one by the other is not 1."""
    if not isinstance(x, Tensor) or not (x.requires_grad and output.requires_grad) or not torch.equal(x, output):
        return False
    ones = torch.ones_like(output)
    (slope,) = torch.autograd.grad(output, x, ones, retain_graph=True, allow_unused=True)
    return slope is not None and not torch.equal(slope, ones)  # without a slope it is a detach


@contextmanager
def naming_suspects(module: nn.Module) -> Iterator[None]:
    """Add the layers that often have no second derivative to an error that such a layer may be the reason of."""
    try:
        yield
    except HigherDerivativeError as error:
        if found := suspects(module):
            raise HigherDerivativeError(f"{error}; look at {', '.join(found)}") from error
        raise


def suspects(module: nn.Module) -> list[str]:
    """Return layers of kinds that often have no second derivative, as "name (Kind)"."""
    kinds = (*_OFTEN_ONCE_DIFFERENTIABLE, torch._dynamo.eval_frame.OptimizedModule)
    return [f"{name} ({type(m).__name__})" for name, m in module.named_modules() if isinstance(m, kinds)]

"""What is refused before the first step, and why: Trainer settings and layers that a rule cannot work with."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_lead._errors import ConfigurationError, DifferentiationError
from lightning_lead.calculus.oracle import CrossTerm, GameOracle

__all__ = ["check_trainer", "probe_cross_terms", "suspects"]

_OFTEN_ONCE_DIFFERENTIABLE = (nn.SyncBatchNorm, nn.MultiheadAttention, nn.RNNBase, nn.TransformerEncoderLayer)


def check_trainer(trainer: Any) -> None:
    """Refuse Trainer settings that cannot be honoured.

    Args:
        trainer: the Lightning Trainer, before it has set anything up.

    Raises:
        ConfigurationError: `gradient_clip_val`, `accumulate_grad_batches`, fp16, or a strategy that shards parameters.

    Example:
        >>> import pytorch_lightning
        >>> check_trainer(pytorch_lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
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
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
        raise ConfigurationError(
            "Cannot train a game on sharded parameters because the cross term needs both players whole on every rank; "
            f"use strategy='ddp' (got {type(trainer.strategy).__name__})"
        )


def probe_cross_terms(oracle: GameOracle, module: nn.Module, form: Any) -> None:
    """Form both cross terms once with a made-up displacement, so that what cannot be differentiated shows at once.

    Args:
        oracle: of the first batch; it must not reduce over ranks.
        module: whose layers are named in the error.
        form: the exact form that the rule will ask for.

    Raises:
        DifferentiationError: a layer without a second derivative, or a player that the other one's loss ignores.
    """
    for player in oracle.names:
        (opponent,) = (name for name in oracle.names if name != player)
        displacement = tuple(1e-3 * p + 1e-6 for p in oracle.point[opponent])
        try:
            oracle.gradient(player, at=oracle.point, cross=CrossTerm(1.0, displacement, form))
        except DifferentiationError:
            raise
        except RuntimeError as error:
            found = suspects(module)
            named = f"; look at {', '.join(found)}" if found else ""
            raise DifferentiationError(
                f"Cannot form the exact cross term of player {player!r} because a layer has no second derivative"
                f"{named}. Use LEADStrategy(cross='difference'), which never differentiates twice; or, for fused "
                "attention, run under torch.nn.attention.sdpa_kernel(SDPBackend.MATH) "
                f"(got: {str(error).splitlines()[0]})"
            ) from error


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

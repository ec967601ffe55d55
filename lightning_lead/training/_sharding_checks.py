"""Strategies that shard parameters: those that a game can be played under, by which rules, on which parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning_lead._sharding import fsdp_units, is_sharded
from lightning_lead.checkpoints.compact import CompactCheckpointIO
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["check_sharded_game", "check_sharding", "has_sharding"]


def has_sharding(trainer: Any) -> bool:
    """Return True under the strategy of FSDP2."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def check_sharding(trainer: Any, rule: AbstractGameRule) -> None:
    """Refuse strategies that shard in a way in which no game can be played, and rules that need whole parameters."""
    instead = "call fully_shard on each network in configure_model() and use ModelParallelStrategy, or strategy='ddp'"
    if isinstance(trainer.strategy, FSDPStrategy):
        raise ConfigurationError(
            "Cannot train a game under FSDPStrategy because it wraps the module as a whole, and so runs a game step "
            f"with all its reverse passes and optimizer steps inside of one forward of its own; {instead} "
            f"(got {type(trainer.strategy).__name__})"
        )
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        raise ConfigurationError(
            "Cannot train a game under DeepSpeedStrategy because it takes one optimizer and steps it by its engine, "
            f"which moves all parameters at once, where a turn moves one player alone; {instead} "
            f"(got {type(trainer.strategy).__name__})"
        )
    if not has_sharding(trainer):
        return
    if rule.needs.second_order or rule.needs.zero_sum:
        raise ConfigurationError(
            f"Cannot play {rule.name} on sharded parameters because it differentiates a gradient, and FSDP gathers "
            "parameters outside of autograd and frees them after one reverse pass: the cross term is a product of two "
            "players' sharded Jacobians, for which both would have to stay whole through two reverse passes; use "
            "LEADStrategy(cross='extrapolated') or another rule that differentiates once, or strategy='ddp' "
            f"(got {rule!r})"
        )


def check_sharded_game(module: Any, live: Mapping[str, Sequence[Tensor]]) -> None:
    """Refuse parameters that are not sharded over all ranks, and settings that are of whole tensors."""
    ranks = module.trainer.world_size
    for player, parameters in live.items():
        odd = [p for p in parameters if not (is_sharded(p) and _over_all_ranks(p, ranks))]
        if odd:
            raise ConfigurationError(
                f"Cannot train player {player!r} because {len(odd)} of its parameters are not sharded over all {ranks} "
                "ranks, and nothing would reduce their gradients; call fully_shard(network, "
                "mesh=self.device_mesh['data_parallel']) in configure_model() on each player's network, and use "
                f"ModelParallelStrategy(data_parallel_size={ranks}, tensor_parallel_size=1)"
            )
    owners = {id(p): player for player, parameters in live.items() for p in parameters}
    for unit in fsdp_units(module):
        if len({owners[id(p)] for p in unit.parameters() if id(p) in owners}) > 1:
            raise ConfigurationError(
                f"Cannot play because fully_shard was called on {type(unit).__name__}, which holds parameters of two "
                "players, and would gather and reduce both in every turn; call it on each player's network by itself"
            )
    if isinstance(module.trainer.strategy.checkpoint_io, CompactCheckpointIO):
        raise ConfigurationError(
            "Cannot save sharded parameters by CompactCheckpointIO because Lightning reads their files without it; "
            "leave it out of Trainer(plugins=...)"
        )
    for what in ("constraints", "local_players"):
        if found := getattr(module, what)():
            raise ConfigurationError(
                f"Cannot play on sharded parameters with {what}() because they are of whole tensors, and each rank has "
                f"a part of each; leave them out, or use strategy='ddp' (got {sorted(found)})"
            )


def _over_all_ranks(parameter: Any, ranks: int) -> bool:
    mesh = parameter.device_mesh
    return bool(mesh.ndim == 1 and mesh.size() == ranks and parameter.placements[0].is_shard())

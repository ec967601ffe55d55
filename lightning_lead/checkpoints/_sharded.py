"""Optimizers in checkpoints of sharded parameters, in the order in which one process has them.

An optimizer's state knows its parameters by their positions: in the optimizer, in a file of one process; in the module,
where Lightning writes a file of sharded parameters and reads one. Where the two orders differ, as where the
discriminator moves first and the generator is the module's first attribute, moments would come to other parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lead._errors import ConfigurationError
from lightning_lead._sharding import fsdp_units, reshard, sharded_like
from lightning_lead.checkpoints._game import KEY

__all__ = ["keep_optimizers", "order_by_position"]


def order_by_position(checkpoint: Mapping[str, Any], optimizers: list[Optimizer], module: nn.Module) -> None:
    """Name each group's parameters in the optimizer's order, where Lightning has sorted them by that of the module.

    Args:
        checkpoint: one that is a single file; ranks other than the first have no states.
        optimizers: of the states.
        module: that holds all parameters.
    """
    reshard(fsdp_units(module))
    positions = {id(p): k for k, p in enumerate(module.parameters())}
    for state, optimizer in zip(checkpoint.get("optimizer_states", []), optimizers, strict=False):
        for saved, group in zip(state.get("param_groups", []), optimizer.param_groups, strict=False):
            if all(isinstance(each, int) for each in saved["params"]):
                saved["params"] = [positions[id(p)] for p in group["params"]]


def keep_optimizers(strategy: Any) -> None:
    """Let a strategy that shards parameters save optimizers as they are, and read those of a single file by position.

    What torch saves of an optimizer that has not stepped yet, it makes by a step along zeros, which would count.

    Args:
        strategy: Lightning's `ModelParallelStrategy`.
    """
    if "load_checkpoint" in vars(strategy):
        return
    load, read = strategy.load_checkpoint, strategy.optimizer_state

    def load_checkpoint(checkpoint_path: Any, *args: Any, **settings: Any) -> dict[str, Any]:
        optimizers = strategy.optimizers
        file = Path(strategy.broadcast(checkpoint_path)).is_file()
        try:
            strategy.optimizers = [] if file else optimizers
            checkpoint: dict[str, Any] = load(checkpoint_path, *args, **settings)
        finally:
            strategy.optimizers = optimizers
        for optimizer, state in zip(optimizers if file else (), checkpoint.get("optimizer_states", []), strict=False):
            optimizer.load_state_dict(_in_parts(state, optimizer))
        for optimizer, record in zip(optimizers, checkpoint.get(KEY, {}).get("optimizers", []), strict=False):
            if record["states"] == 0:
                optimizer.state.clear()
        return checkpoint

    def optimizer_state(optimizer: Any) -> dict[str, Any]:
        state = getattr(optimizer, "_optimizer", optimizer).state
        unused, folder = not state, strategy._save_distributed_checkpoint
        held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        if folder and 0 < len(state) < len(held):
            raise ConfigurationError(
                "Cannot save a folder of shards while an optimizer holds parameters that have not moved yet, as in "
                "discriminator_warmup, because torch could not read it; use ModelParallelStrategy("
                "save_distributed_checkpoint=False), or one optimizer per player"
            )
        saved: dict[str, Any] = read(optimizer)
        if unused:
            state.clear()
            if not folder and saved:  # of a folder it is told apart when it is read
                saved["state"] = {}
        return saved

    strategy.load_checkpoint, strategy.optimizer_state = load_checkpoint, optimizer_state


def _in_parts(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Give what has a parameter's shape the layout of the parameter."""
    positions = [position for group in state["param_groups"] for position in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    owners = dict(zip(positions, parameters, strict=False))  # of other numbers torch says what is wrong
    kept = {
        position: {
            name: sharded_like(value, owners[position])
            if isinstance(value, Tensor) and value.dim() and value.shape == owners[position].shape
            else value
            for name, value in values.items()
        }
        for position, values in state["state"].items()
        if position in owners
    }
    return {**state, "state": kept}

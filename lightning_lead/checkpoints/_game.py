"""The game in a checkpoint: its rule, play and memory, and the checks by which a run may go on from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lead._errors import CheckpointMismatchError

__all__ = [
    "COMPACT",
    "KEY",
    "MID_STEP_VERSION",
    "VERSION",
    "check_optimizer_states",
    "check_optimizer_kinds",
    "check_same_parameters",
    "implementations",
    "optimizer_record",
    "parameter_shapes",
    "saved_description",
    "saved_game",
    "restore_implementation",
]

KEY = "lightning_lead"
"""The key of the game in a Lightning checkpoint."""

VERSION = 1
"""Version of the layout under that key."""

MID_STEP_VERSION = 2
"""Version of a checkpoint that was saved between the turns of a game step, which an earlier one would begin anew."""

COMPACT = "lightning_lead_compact"
"""A key that only checkpoints of `CompactCheckpointIO` have."""

_IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
"""Settings of a param group that say how a step is computed, not which one: they belong to the run, not the file."""

_Shapes = dict[str, dict[str, list[int]]]


def parameter_shapes(module: nn.Module, players: Mapping[str, Sequence[Tensor]]) -> _Shapes:
    """Player -> parameter name -> shape, of the parameters that are trained."""
    names = {id(p): name for name, p in module.named_parameters()}
    return {player: {names[id(p)]: list(p.shape) for p in params} for player, params in players.items()}


def saved_game(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The game in a checkpoint, as Lightning loads it."""
    if COMPACT in checkpoint:
        raise CheckpointMismatchError(
            "Cannot resume because the checkpoint is a compact one; read it by the plugin that wrote it, "
            "Trainer(plugins=[CompactCheckpointIO()])"
        )
    saved: dict[str, Any] | None = checkpoint.get(KEY)
    if saved is None or "version" not in saved:  # a file with the generator alone has a description and no version
        raise CheckpointMismatchError(
            "Cannot resume because the checkpoint holds no game; it was not written by a LeadModule, or by one that "
            "overrides on_save_checkpoint() without super().on_save_checkpoint(checkpoint) "
            f"(got keys {sorted(checkpoint)})"
        )
    if saved["version"] > MID_STEP_VERSION:
        raise CheckpointMismatchError(
            f"Cannot resume because a later lightning-lead wrote the checkpoint; update it "
            f"(got layout {saved['version']}, know up to {MID_STEP_VERSION})"
        )
    if saved.get("torn"):
        others = {
            str(state[key])
            for state in checkpoint.get("callbacks", {}).values()
            for key in ("last_model_path", "best_model_path")
            if isinstance(state, Mapping) and state.get(key)
        }
        raise CheckpointMismatchError(
            f"Cannot resume because the checkpoint was saved in game step {checkpoint['global_step'] + 1}, when some "
            "of the weights had moved and others had not; go on from one that was saved after a whole step, "
            f"as {' or '.join(sorted(others)) or 'those of ModelCheckpoint or SegmentCheckpoint'}; the weights "
            "themselves may be evaluated"
        )
    return saved


def saved_description(content: Mapping[str, Any]) -> str | None:
    """Return the game that trained the weights of a checkpoint or a generator's file; None if it is not said."""
    saved = content.get(KEY, {})
    if "description" in saved:
        return str(saved["description"])
    game = saved.get("game")  # of an earlier version, without settings
    return None if game is None else f"{game['rule']}, {game['play']} play"


def check_same_parameters(saved: _Shapes, mine: _Shapes) -> None:
    """Refuse to go on with other networks than those of the checkpoint."""
    differing = []
    for player in sorted(saved.keys() | mine.keys()):
        old, new = saved.get(player, {}), mine.get(player, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                differing.append((player, name, old.get(name, "nothing"), new.get(name, "nothing")))
    if differing:
        player, name, before, now = differing[0]
        raise CheckpointMismatchError(
            f"Cannot resume because player {player!r} trains other parameters: {name} has shape {before} in the "
            f"checkpoint, the first of {len(differing)} that differ; build the network that wrote it, with the same "
            f"layers frozen and, on the command line, the same --model...= overrides (got {now})"
        )


def optimizer_record(optimizers: Iterable[Optimizer]) -> list[dict[str, Any]]:
    """Say of which kind each optimizer is, of how many parameters it keeps a state, and of which shapes."""
    return [
        {"kind": type(optimizer).__name__, "states": len(optimizer.state), "shapes": _shapes_of(optimizer)}
        for optimizer in optimizers
    ]


def _shapes_of(optimizer: Optimizer) -> str:
    """Print the shapes of an optimizer's states, parameter by parameter; counts may be numbers or tensors."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = [
        sorted((key, list(v.shape)) for key, v in state.items() if isinstance(v, Tensor) and key != "step")
        for state in (optimizer.state.get(p, {}) for p in parameters)
        if isinstance(state, dict)
    ]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()


def check_optimizer_kinds(optimizers: Sequence[Optimizer], saved: Sequence[Mapping[str, Any]]) -> None:
    """Refuse optimizers of other kinds than those of an `optimizer_record`, before their states are loaded."""
    before, now = ([each["kind"] for each in record] for record in (saved, optimizer_record(optimizers)))
    if before != now:
        raise CheckpointMismatchError(
            "Cannot resume because the checkpoint is of other optimizers; return the same from "
            f"configure_optimizers(), {' and '.join(before) or 'none'} (got {' and '.join(now) or 'none'})"
        )


def check_optimizer_states(optimizers: Sequence[Optimizer], saved: Sequence[Mapping[str, Any]] | None) -> None:
    """Refuse states that are not those of an `optimizer_record`, in number or shapes; None if there is no record."""
    for before, now in zip(saved or (), optimizer_record(optimizers), strict=False):
        if before["states"] != now["states"]:
            raise CheckpointMismatchError(
                f"Cannot resume because states of {now['kind']} are missing in the checkpoint, {before['states']} were "
                f"saved; take another one (got {now['states']})"
            )
        if before["shapes"] != now["shapes"]:
            raise CheckpointMismatchError(
                f"Cannot resume because the states of {now['kind']} are not of the shapes that were saved, or belong "
                "to other parameters; build network and optimizers as the run that wrote the checkpoint did, or take "
                f"another one (got {now['states']} states)"
            )


def implementations(optimizers: Iterable[Optimizer]) -> list[list[dict[str, Any]]]:
    """List the settings of each optimizer's param groups, as it was built."""
    return [[{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] for optimizer in optimizers]


@torch.no_grad()
def restore_implementation(optimizers: Iterable[Optimizer], built: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Adapt what was loaded into optimizers to this run: to `built` (`implementations`) and to its weights' strides.

    `Optimizer.load_state_dict` takes over `fused` and the like from the file, and moments with the file's strides. A
    fused step walks through weight, gradient and moments side by side and does not compare their strides: resumed with
    channels last where the file was without, or the reverse, it would pair weights with the moments of others.
    """
    for optimizer, settings in zip(optimizers, built, strict=True):
        for group, wanted in zip(optimizer.param_groups, settings, strict=False):  # a callback may have added some
            was_on_device = _counts_on_device(group)
            group.update({k: v for k, v in wanted.items() if k in _IMPLEMENTATION})
            moved = _counts_on_device(group) != was_on_device
            for parameter in group["params"]:
                state = optimizer.state.get(parameter)
                if not isinstance(state, dict):
                    continue
                for key, value in state.items():
                    if not isinstance(value, Tensor):
                        continue
                    if key == "step" and moved:
                        state[key] = value.cpu() if was_on_device else value.to(parameter.device, torch.float32)
                    elif value.shape == parameter.shape and value.stride() != parameter.stride():
                        state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _counts_on_device(group: Mapping[str, Any]) -> bool:
    """True where an optimizer counts its steps beside the weights, as fused and capturable ones do."""
    return bool(group.get("fused") or group.get("capturable"))

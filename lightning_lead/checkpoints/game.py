"""What a checkpoint says of the game, and whether a run may go on from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lead._errors import CheckpointMismatchError

__all__ = [
    "COMPACT",
    "KEY",
    "VERSION",
    "check_same_parameters",
    "implementations",
    "parameter_shapes",
    "saved_description",
    "saved_game",
    "settle_optimizers",
]

KEY = "lightning_lead"
"""Where the game stands in a Lightning checkpoint."""

VERSION = 1
"""Of its layout."""

COMPACT = "lightning_lead_compact"
"""What marks a checkpoint that `compact.CompactCheckpointIO` has written."""

IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
"""Settings of a param group that say how a step is computed, not which one: they belong to the run, not the file."""

Shapes = dict[str, dict[str, list[int]]]


def parameter_shapes(module: nn.Module, players: Mapping[str, Sequence[Tensor]]) -> Shapes:
    """Player -> parameter name -> shape, of what is trained.

    Args:
        module: that holds the players.
        players: name -> live parameters.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> parameter_shapes(layer, {"x": [layer.weight], "y": [layer.bias]})
        {'x': {'weight': [1, 2]}, 'y': {'bias': [1]}}
    """
    names = {id(p): name for name, p in module.named_parameters()}
    return {player: {names[id(p)]: list(p.shape) for p in params} for player, params in players.items()}


def saved_game(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The game in a checkpoint.

    Args:
        checkpoint: as Lightning loads it.

    Raises:
        CheckpointMismatchError: there is none, one of a later layout, or one that has to be unpacked first.

    Example:
        >>> saved_game({"lightning_lead": {"version": 1}})
        {'version': 1}
    """
    if COMPACT in checkpoint:
        raise CheckpointMismatchError(
            "Cannot resume because the checkpoint is a compact one; read it by the plugin that wrote it, "
            "Trainer(plugins=[CompactCheckpointIO()])"
        )
    saved: dict[str, Any] | None = checkpoint.get(KEY)
    if saved is None or "version" not in saved:  # the latter: the generator alone
        raise CheckpointMismatchError(
            "Cannot resume because the checkpoint holds no game; it was not written by a LeadModule, or by one that "
            "overrides on_save_checkpoint() without super().on_save_checkpoint(checkpoint) "
            f"(got keys {sorted(checkpoint)})"
        )
    if saved["version"] > VERSION:
        raise CheckpointMismatchError(
            f"Cannot resume because a later lightning-lead wrote the checkpoint; update it "
            f"(got layout {saved['version']}, know up to {VERSION})"
        )
    return saved


def saved_description(content: Mapping[str, Any]) -> str | None:
    """By which game the weights were trained; None if the file does not say.

    Args:
        content: of a checkpoint, or of a file with the generator alone.

    Example:
        >>> saved_description({"lightning_lead": {"game": {"rule": "LEAD", "play": "alternating"}}})
        'LEAD, alternating play'
    """
    saved = content.get(KEY, {})
    if "description" in saved:
        return str(saved["description"])
    game = saved.get("game")  # of an earlier version, without settings
    return None if game is None else f"{game['rule']}, {game['play']} play"


def check_same_parameters(saved: Shapes, mine: Shapes) -> None:
    """Refuse to go on with other networks.

    Args:
        saved: of the checkpoint.
        mine: of the module.

    Raises:
        CheckpointMismatchError: how many parameters differ, and the first of them by name.

    Example:
        >>> check_same_parameters({"x": {"weight": [1]}}, {"x": {"weight": [1]}})
    """
    others = []
    for player in sorted(saved.keys() | mine.keys()):
        theirs, ours = saved.get(player, {}), mine.get(player, {})
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                others.append((player, name, theirs.get(name, "nothing"), ours.get(name, "nothing")))
    if others:
        player, name, old, new = others[0]
        raise CheckpointMismatchError(
            f"Cannot resume because player {player!r} trains other parameters: {name} has shape {old} in the "
            f"checkpoint, the first of {len(others)} that differ; build the network that wrote it, with the same "
            f"layers frozen and, on the command line, the same --model...= overrides (got {new})"
        )


def implementations(optimizers: Iterable[Optimizer]) -> list[list[dict[str, Any]]]:
    """How the param groups of each optimizer are to be stepped, as it was built: fused, foreach, and so on.

    Args:
        optimizers: before a checkpoint is loaded into them.

    Example:
        >>> adam = torch.optim.Adam([nn.Parameter(torch.ones(1))], foreach=True)
        >>> implementations([adam])[0][0]["foreach"]
        True
    """
    return [[{k: g[k] for k in IMPLEMENTATION if k in g} for g in optimizer.param_groups] for optimizer in optimizers]


@torch.no_grad()
def settle_optimizers(optimizers: Iterable[Optimizer], built: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """What was loaded into optimizers, put in the order of this run's weights and stepped as this run asks for.

    `Optimizer.load_state_dict` takes over `fused` and its like from the file, and moments in the file's order in
    memory. A fused step walks through weight, gradient and moments side by side and does not look whether they are in
    one order: resumed with or without channels last, it would pair weights with the moments of others.

    Args:
        optimizers: after the checkpoint was loaded into them; nothing happens to others.
        built: what `implementations` said of them before.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2, 3, 2, 2))
        >>> adam = torch.optim.Adam([weight])
        >>> before = implementations([adam])
        >>> moments = torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last)
        >>> adam.state[weight] = {"step": torch.tensor(1.0), "exp_avg": moments, "exp_avg_sq": moments}
        >>> settle_optimizers([adam], before)
        >>> adam.state[weight]["exp_avg"].stride() == weight.stride()
        True
    """
    for optimizer, settings in zip(optimizers, built, strict=True):
        for group, wanted in zip(optimizer.param_groups, settings, strict=False):  # a callback may have added some
            counts_there = bool(group.get("fused") or group.get("capturable"))
            group.update(wanted)
            counts_here = bool(group.get("fused") or group.get("capturable"))
            for parameter in group["params"]:
                state = optimizer.state.get(parameter)
                if not isinstance(state, dict):
                    continue
                for key, value in state.items():
                    if not isinstance(value, Tensor):
                        continue
                    if key == "step" and counts_here != counts_there:  # beside the weights, or with the host
                        state[key] = value.to(parameter.device, torch.float32) if counts_here else value.cpu()
                    elif value.shape == parameter.shape and value.stride() != parameter.stride():
                        state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

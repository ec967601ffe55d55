"""What a checkpoint says of the game, and whether a run may go on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_lead._errors import CheckpointMismatchError

__all__ = ["COMPACT", "KEY", "VERSION", "check_same_parameters", "parameter_shapes", "saved_description", "saved_game"]

KEY = "lightning_lead"
"""Where the game stands in a Lightning checkpoint."""

VERSION = 1
"""Of its layout."""

COMPACT = "lightning_lead_compact"
"""What marks a checkpoint that `compact.CompactCheckpointIO` has written."""

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

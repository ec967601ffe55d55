"""What of a checkpoint can be left out because it is there twice, and how the rest gets smaller by rounding.

What a checkpoint of LEAD-Adam with an average holds, in units of all parameters P = G + D, and what is kept of it:

    part                  plain   exact                                        half
    weights                P      P                                            P
    Adam's first moment    P      – where β₁ = 0, which overwrites it          ½ P, or – where β₁ = 0
    Adam's second moment   P      P                                            ½ P
    anchors of Δ           P      G: one player has not been moved against     ½ G
    average of G           G      G                                            ½ G

"exact" resumes bit for bit. "half" stores moments as bfloat16, and anchors and average as bfloat16 differences from the
weights: relative errors of at most 2⁻⁹ in a step's size, in Δ and in the average's distance. The run goes on as another
one of the same law, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_lead._errors import CheckpointMismatchError
from lightning_lead.checkpoints.game import COMPACT, KEY

__all__ = ["PACKING", "pack", "unpack"]

PACKING = 1
"""Version of the layout."""

_MARK = "__compact__"


def pack(checkpoint: Mapping[str, Any], precision: Literal["exact", "half"] = "exact") -> dict[str, Any]:
    """A checkpoint without what can be made again; the one that is handed in stays as it is.

    Args:
        checkpoint: as a Trainer dumps it.
        precision: "exact" or "half".

    Example:
        >>> entry = {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
        >>> state = {"state": {0: entry}, "param_groups": [{"betas": (0.0, 0.9), "params": [0]}]}
        >>> packed = pack({"state_dict": {}, "optimizer_states": [state]})
        >>> packed["optimizer_states"][0]["state"][0]["exp_avg"]["shape"]
        [3]
        >>> unpack(packed)["optimizer_states"][0]["state"][0]["exp_avg"]
        tensor([0., 0., 0.])
    """
    weights, half = checkpoint["state_dict"], precision == "half"
    packed = dict(checkpoint)
    packed[COMPACT] = {"version": PACKING, "precision": precision}
    packed["optimizer_states"] = [_pack_optimizer(o, half) for o in checkpoint.get("optimizer_states", [])]
    if (game := checkpoint.get(KEY)) is not None:
        names = {player: list(shapes) for player, shapes in game["players"].items()}
        packed[KEY] = game | {"game": game["game"] | {"state": _pack_game(game["game"]["state"], names, weights, half)}}
    if half:
        callbacks = {key: dict(state) for key, state in checkpoint.get("callbacks", {}).items()}
        for state in callbacks.values():
            if isinstance(average := state.get("average"), dict):
                state["average"] = {n: _near(t, f"generator.{n}", weights, half) for n, t in average.items()}
        packed["callbacks"] = callbacks
    return packed


def unpack(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint that `pack` was given, to rounding if by halves; any other one as it is.

    Args:
        checkpoint: packed or not.

    Raises:
        CheckpointMismatchError: a later layout.

    Example:
        >>> unpack({"state_dict": {}})
        {'state_dict': {}}
    """
    if (layout := checkpoint.get(COMPACT)) is None:
        return checkpoint
    if layout["version"] > PACKING:
        raise CheckpointMismatchError(
            f"Cannot resume because a later lightning-lead wrote the compact checkpoint; update it "
            f"(got layout {layout['version']}, know up to {PACKING})"
        )
    weights = checkpoint["state_dict"]
    restored = {
        key: _restore(value, weights) for key, value in checkpoint.items() if key not in (COMPACT, "state_dict")
    }
    return {"state_dict": weights} | restored


def _pack_optimizer(optimizer: Mapping[str, Any], half: bool) -> dict[str, Any]:
    first_unused = {k for group in optimizer["param_groups"] if _first_beta(group) == 0 for k in group["params"]}
    state: dict[Any, Any] = {}
    for parameter, entry in optimizer["state"].items():
        state[parameter] = packed = dict(entry)
        for name, value in entry.items():
            if not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
                continue
            if name == "exp_avg" and parameter in first_unused:
                packed[name] = _marked("zeros", shape=list(value.shape), stride=list(value.stride()), dtype=value.dtype)
            elif half:
                packed[name] = _marked("rounded", value=value.to(torch.bfloat16), dtype=value.dtype)
    return {**optimizer, "state": state}


def _first_beta(group: Mapping[str, Any]) -> float | None:
    betas = group.get("betas")
    return None if betas is None else float(betas[0])


def _pack_game(state: Any, names: Mapping[str, list[str]], weights: Mapping[str, Tensor], half: bool) -> Any:
    """Vectors under a player's name lie in the order of its parameters, and may be near its weights."""
    if not isinstance(state, dict):
        return state
    packed = {}
    for key, value in state.items():
        if key in names and isinstance(value, (tuple, list)) and len(value) == len(names[key]):
            packed[key] = tuple(_near(t, name, weights, half) for t, name in zip(value, names[key], strict=True))
        else:
            packed[key] = _pack_game(value, names, weights, half)
    return packed


def _near(tensor: Any, name: str, weights: Mapping[str, Tensor], half: bool) -> Any:
    """The same as a weight; or by how much it differs, if that is less than a tenth of it."""
    weight = weights.get(name)
    if not isinstance(tensor, Tensor) or weight is None or tensor.shape != weight.shape:
        return tensor
    if tensor.dtype == weight.dtype and torch.equal(tensor, weight):
        return _marked("same", key=name)
    if not half or not tensor.is_floating_point():
        return tensor
    apart = tensor - weight.to(tensor.dtype)
    if not apart.abs().max() < 0.1 * weight.abs().max():
        return tensor
    return _marked("near", key=name, value=apart.to(torch.bfloat16), dtype=tensor.dtype)


def _marked(kind: str, **content: Any) -> dict[str, Any]:
    return {_MARK: kind, **content}


def _restore(value: Any, weights: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _MARK in value:
            return _MAKERS[value[_MARK]](value, weights)
        return {key: _restore(item, weights) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_restore(item, weights) for item in value)
    return value


_MAKERS: dict[str, Callable[[dict[str, Any], Mapping[str, Tensor]], Tensor]] = {
    "zeros": lambda m, _: torch.empty_strided(m["shape"], m["stride"], dtype=m["dtype"]).zero_(),
    "rounded": lambda m, _: m["value"].to(m["dtype"]),
    "same": lambda m, weights: weights[m["key"]].clone(),
    "near": lambda m, weights: weights[m["key"]].to(m["dtype"]) + m["value"].to(m["dtype"]),
}

"""The parts that a compact checkpoint leaves out: duplicates, and what is overwritten before it is read.

What a checkpoint of LEAD-Adam with an average holds, in units of all parameters P = G + D, and what is kept of it:

    tensors                plain   compact
    weights                P       P
    Adam's first moment    P       – where β₁ = 0, which overwrites it; else P
    Adam's second moment   P       P
    anchors of Δ           P       G: one player has not moved since its anchor was set
    average of G           G       G

A tensor that is left out is replaced by a dictionary, {_MARK: kind, ...}, that says how it is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_lead._errors import CheckpointMismatchError
from lightning_lead.checkpoints._game import COMPACT, KEY

__all__ = ["pack", "unpack"]

_LAYOUT = 1
_MARK = "__compact__"


def pack(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of the Trainer without what can be made again; the one that is handed in stays as it is."""
    packed = dict(checkpoint)
    packed[COMPACT] = {"version": _LAYOUT, "precision": "exact"}
    packed["optimizer_states"] = [_pack_optimizer(state) for state in checkpoint.get("optimizer_states", [])]
    if (saved := checkpoint.get(KEY)) is not None:
        names = {player: list(shapes) for player, shapes in saved["players"].items()}
        state = _pack_memory(saved["game"]["state"], names, checkpoint["state_dict"])
        packed[KEY] = saved | {"game": saved["game"] | {"state": state}}
    return packed


def unpack(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint that `pack` was given; an ordinary one as it is."""
    if (layout := checkpoint.get(COMPACT)) is None:
        return checkpoint
    if layout["version"] > _LAYOUT:
        raise CheckpointMismatchError(
            f"Cannot resume because a later lightning-lead wrote the compact checkpoint; update it "
            f"(got layout {layout['version']}, know up to {_LAYOUT})"
        )
    weights = checkpoint["state_dict"]
    rest = {key: value for key, value in checkpoint.items() if key not in (COMPACT, "state_dict")}
    restored: dict[str, Any] = _restore(rest, weights)
    return {"state_dict": weights} | restored


def _pack_optimizer(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out first moments under β₁ = 0: the next step multiplies them by 0 before it reads them."""
    overwritten = {
        parameter
        for group in optimizer["param_groups"]
        if (betas := group.get("betas")) is not None and float(betas[0]) == 0
        for parameter in group["params"]
    }
    state = {}
    for parameter, entry in optimizer["state"].items():
        moment = entry.get("exp_avg") if parameter in overwritten else None
        if isinstance(moment, Tensor) and moment.is_floating_point() and moment.dim():
            about = {"shape": list(moment.shape), "stride": list(moment.stride()), "dtype": moment.dtype}
            entry = {**entry, "exp_avg": {_MARK: "zeros", **about}}
        state[parameter] = entry
    return {**optimizer, "state": state}


def _pack_memory(memory: Any, names: Mapping[str, list[str]], weights: Mapping[str, Tensor]) -> Any:
    """Leave out what equals a weight: tensors under a player's name lie in the order of its parameters."""
    if not isinstance(memory, dict):
        return memory
    packed: dict[Any, Any] = {}
    for key, value in memory.items():
        if key in names and isinstance(value, (tuple, list)) and len(value) == len(names[key]):
            packed[key] = tuple(_or_weight(item, name, weights) for item, name in zip(value, names[key], strict=True))
        else:
            packed[key] = _pack_memory(value, names, weights)
    return packed


def _or_weight(tensor: Any, name: str, weights: Mapping[str, Tensor]) -> Any:
    weight = weights.get(name)
    if not isinstance(tensor, Tensor) or weight is None or tensor.dtype != weight.dtype:
        return tensor
    return {_MARK: "same", "key": name} if torch.equal(tensor, weight) else tensor


def _restore(value: Any, weights: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _MARK in value:
            return _MADE_AGAIN[value[_MARK]](value, weights)
        return {key: _restore(item, weights) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_restore(item, weights) for item in value)
    return value


_MADE_AGAIN: dict[str, Callable[[dict[str, Any], Mapping[str, Tensor]], Tensor]] = {
    "zeros": lambda m, _: torch.empty_strided(m["shape"], m["stride"], dtype=m["dtype"]).zero_(),
    "same": lambda m, weights: weights[m["key"]].clone(),
    # an earlier version could round to bfloat16: moments, and the differences of anchors and averages from the weights
    "rounded": lambda m, _: m["value"].to(m["dtype"]),
    "near": lambda m, weights: weights[m["key"]].to(m["dtype"]) + m["value"].to(m["dtype"]),
}

"""CompactCheckpointIO: full checkpoints without what they hold twice, smaller still by rounding, in parts if need be.

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

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, final

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError
from lightning_lead.checkpoint import COMPACT, KEY
from lightning_lead.parts import local_path, read_parts, write_parts, write_whole

__all__ = ["CompactCheckpointIO", "pack", "unpack"]

MARK = "__compact__"
VERSION = 1


@final
class CompactCheckpointIO(TorchCheckpointIO):
    """A plugin by which the Trainer writes and reads compact checkpoints: `Trainer(plugins=[CompactCheckpointIO()])`.

    Every checkpoint of the Trainer is written so, by `ModelCheckpoint`, `SegmentCheckpoint` or by hand, and is resumed
    by a Trainer that has the plugin, with any settings. It reads ordinary checkpoints as well. Without `max_part_mib`
    the weights in a file are as ever, for `load_from_checkpoint`.

    A local file is written beside its place and then renamed, so a save that is cut short leaves the checkpoint before.
    (Lightning's own writer begins in $TMPDIR, and copies from there if that is another file system.)

    Args:
        precision: "exact" or "half", see the module's head.
        max_part_mib: largest size of a file, > 0, or None for one file. Parts lie beside the checkpoint, which names
            them and their sha256, and is written last; only then do the parts of the one before go.

    Raises:
        ConfigurationError: an unknown precision, or a size out of its range.

    Example:
        >>> io = CompactCheckpointIO(precision="half", max_part_mib=15)
        >>> io.precision, io.max_part_mib
        ('half', 15)
    """

    def __init__(self, *, precision: Literal["exact", "half"] = "exact", max_part_mib: float | None = None) -> None:
        super().__init__()
        if precision not in ("exact", "half"):
            raise ConfigurationError(f"Cannot store with precision={precision!r}; choose 'exact' or 'half'")
        if max_part_mib is not None and not max_part_mib > 0:
            raise ConfigurationError(f"Cannot split into parts of {max_part_mib!r} MiB; pass a number > 0, or None")
        self.precision, self.max_part_mib = precision, max_part_mib

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it; see the class.

        Args:
            checkpoint: as the Trainer dumps it.
            path: of the checkpoint; a local one where it is split.
            storage_options: must be None, as in Lightning's own plugin.
        """
        packed, place = pack(checkpoint, self.precision), local_path(path)
        if place is None and self.max_part_mib is not None:
            raise ConfigurationError(f"Cannot split {path} because it is not a local file; leave out max_part_mib")
        if place is None or storage_options is not None:
            super().save_checkpoint(packed, path, storage_options)
        elif self.max_part_mib is None:
            write_whole(place, packed)
        else:
            index = {key: checkpoint[key] for key in ("pytorch-lightning_version", "global_step") if key in checkpoint}
            write_parts(
                place,
                packed,
                size=max(1, int(self.max_part_mib * 2**20)),
                index=lambda parts: {COMPACT: {"version": VERSION, **parts}, **index},
                before=_parts_of(place),
            )

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of either kind.

        Args:
            path: of the checkpoint.
            map_location: see `torch.load`.
            weights_only: refuse anything but tensors and plain types; default Lightning's own.

        Raises:
            CheckpointMismatchError: a part is missing or damaged.
        """
        settings = {} if weights_only is None else {"weights_only": weights_only}  # Lightning 2.5 does not know it
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, **settings)
        parts = checkpoint.get(COMPACT, {}).get("parts")
        if parts:
            content = read_parts(local_path(path) or Path(path), parts, checkpoint[COMPACT]["sha256"])
            checkpoint = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
        return unpack(checkpoint)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove it with its parts.

        Args:
            path: of the checkpoint.
        """
        place = local_path(path) or Path(path)
        parts = _parts_of(place)
        super().remove_checkpoint(path)
        for name in parts:
            place.with_name(name).unlink(missing_ok=True)


def _parts_of(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        index = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return []  # whatever it is, it names no parts
    return list(index.get(COMPACT, {}).get("parts", [])) if isinstance(index, dict) else []


# ---- what is left out -----------------------------------------------------------------------------------------------


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
    packed[COMPACT] = {"version": VERSION, "precision": precision}
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
    if layout["version"] > VERSION:
        raise CheckpointMismatchError(
            f"Cannot resume because a later lightning-lead wrote the compact checkpoint; update it "
            f"(got layout {layout['version']}, know up to {VERSION})"
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
    return {MARK: kind, **content}


def _restore(value: Any, weights: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if MARK in value:
            return _MAKERS[value[MARK]](value, weights)
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

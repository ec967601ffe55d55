"""Where a rule's memory lies: out of a checkpoint beside the parameters, and, offloaded, on the host between turns.

A piece of what is on the host is on the device from when a turn looks it up until the turn ends:

    lent = lend(memory)                                          # a dict that brings what is looked up
    directions, state = rule.direction(oracle, players, lent)
    memory = take_back(state, lent)                              # copies what is new; the rest is still there

To and from a CUDA device copies go through pinned memory, and nobody waits for them: an event is recorded behind those
of one call, a stream that reads them waits for it, and the host does where it reads them itself, in `settled`. Pinned
memory that is given up is torch's to reuse, after the copies that it takes part in. Elsewhere a copy has ended when it
returns. What is on the host anyway stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from lightning_lead._errors import CheckpointMismatchError
from lightning_lead._sharding import is_sharded, local_part, map_tensors, sharded_like
from lightning_lead._types import Point, Vector
from lightning_lead.rules.base import RuleState

__all__ = ["check_memory", "lend", "placed", "settled", "take_back"]


def check_memory(value: Any, point: Point) -> None:
    """Refuse a loaded state whose tensors under a player's name are not those of its parameters."""
    for name, item in value.items() if isinstance(value, Mapping) else ():
        tensors = isinstance(item, (tuple, list)) and item and all(isinstance(each, Tensor) for each in item)
        if name not in point or not tensors:
            check_memory(item, point)
            continue
        ours, theirs = ([list(each.shape) for each in vector] for vector in (point[name], item))
        if ours != theirs or not all(each.is_floating_point() for each in item):
            raise CheckpointMismatchError(
                f"Cannot resume because the rule's memory of {name!r} in the checkpoint is not one of its parameters; "
                f"take another copy of the checkpoint, or an earlier one (got shapes {theirs} instead of {ours}, of "
                f"{', '.join(sorted({str(each.dtype) for each in item}))})"
            )


def placed(value: Any, point: Point, like: Vector = ()) -> Any:
    """Put a loaded state where the parameters are: on their device, and what is a player's in the layout of its own."""
    if isinstance(value, Tensor):
        return value.to(next(iter(point.values()))[0].device)
    if isinstance(value, dict):
        return {key: placed(item, point, point.get(key, ())) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        if len(value) == len(like) and all(isinstance(item, Tensor) for item in value):
            return tuple(sharded_like(item, p) for item, p in zip(value, like, strict=True))
        return tuple(placed(item, point, like) for item in value)
    return value


def lend(memory: RuleState) -> RuleState:
    """Return a rule's memory for one turn, as a dict whose tensors are brought to their devices when looked up.

    Args:
        memory: as `take_back` returned it.
    """
    return _Lent(memory, _Loans())


def take_back(state: RuleState, lent: RuleState | None = None) -> RuleState:
    """Return a rule's state with its tensors on the host.

    Args:
        state: as a rule returned it.
        lent: the memory that the rule was handed; what was lent and is still in the state is not copied again.
    """
    loans = lent._loans if isinstance(lent, _Lent) else _Loans()
    events: dict[torch.device, Any] = {}
    memory: RuleState = map_tensors(lambda item: loans.kept(item, events), state, (Tensor, _Kept))
    for device, event in events.items():
        event.record(_cuda(device).current_stream(device))
    return memory


def settled(memory: Any) -> Any:
    """Return what `take_back` returned with plain tensors, on the host and ready to be read.

    Sharded ones are on their device, where ranks can gather them.
    """
    return map_tensors(_Kept.settled, memory, _Kept)


def _cuda(device: torch.device) -> Any:
    """Return `torch.cuda` for a device whose copies from and to pinned memory are queued; None for others."""
    return torch.cuda if device.type == "cuda" else None


def _stays(tensor: Tensor) -> bool:
    """Return True for a tensor that is on the host by itself."""
    return local_part(tensor).device.type == "cpu"


class _Kept:
    """A tensor's values on the host, or those of this rank's part, and how it was on the device."""

    __slots__ = ("device", "event", "host", "layout")

    def __init__(self, host: Tensor, device: torch.device, layout: tuple[Any, ...] | None, event: Any = None) -> None:
        self.host, self.device, self.layout, self.event = host, device, layout, event

    @classmethod
    def of(cls, tensor: Tensor, events: dict[torch.device, Any]) -> _Kept:
        """Copy a tensor to the host; the copy has ended when the device's event has come, which the caller records."""
        part, layout = local_part(tensor).detach(), None
        if is_sharded(tensor):
            layout = tensor.device_mesh, tensor.placements, tensor.shape, tensor.stride()  # type: ignore[attr-defined]
        cuda = _cuda(part.device)
        if cuda is not None and part.device not in events:
            events[part.device] = cuda.Event()
        host = torch.empty_like(part, device="cpu", pin_memory=cuda is not None)
        host.copy_(part, non_blocking=cuda is not None)
        return cls(host, part.device, layout, events.get(part.device))

    def brought(self) -> Tensor:
        """Return the tensor as it was on the device; the current stream has its values after what was queued before."""
        cuda = _cuda(self.device)
        if cuda is not None and self.event is not None:
            cuda.current_stream(self.device).wait_event(self.event)
        part = self.host.to(self.device, non_blocking=cuda is not None)
        if self.layout is None:
            return part
        mesh, placements, shape, stride = self.layout
        of_parts = sys.modules["torch.distributed.tensor"].DTensor.from_local
        whole: Tensor = of_parts(part, mesh, placements, run_check=False, shape=shape, stride=stride)
        return whole

    def settled(self) -> Tensor:
        """Return the values, to be read on the host; of a part, the sharded tensor."""
        if self.layout is not None:
            return self.brought()
        if self.event is not None:
            self.event.synchronize()
        return self.host

    def __reduce__(self) -> Any:
        """Copies of a module, and other processes, have the values without the event."""
        if self.event is not None:
            self.event.synchronize()
        return type(self), (self.host, self.device, self.layout)


class _Loans:
    """The tensors that a turn has been lent, until it ends."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}  # id of what is kept -> the tensor that was brought
        self._sources: dict[int, tuple[_Kept, int, Tensor]] = {}  # id of a tensor -> what is kept of it, its version

    def bring(self, value: Any) -> Any:
        """Return what a rule is to see of a value in memory."""
        if isinstance(value, _Kept):
            if id(value) not in self._tensors:
                self._tensors[id(value)] = tensor = value.brought()
                self._sources[id(tensor)] = value, tensor._version, tensor
            return self._tensors[id(value)]
        if isinstance(value, dict) and not isinstance(value, _Lent):
            return _Lent(value, self)
        if isinstance(value, (tuple, list)):
            items = [self.bring(item) for item in value]
            return value if all(map(_same, items, value)) else items if isinstance(value, list) else tuple(items)
        return value

    def kept(self, value: Tensor | _Kept, events: dict[torch.device, Any]) -> Tensor | _Kept:
        """Return what memory keeps of a tensor, which it may have already; a rule may have written into the loan."""
        if isinstance(value, _Kept):
            if id(value) not in self._tensors:
                return value
            value = self._tensors[id(value)]
        source = self._sources.get(id(value))
        if source is not None and source[1] == value._version:
            return source[0]
        if _stays(value):
            return value
        new = _Kept.of(value, events)
        self._sources[id(value)] = new, value._version, value  # once, under however many names
        return new


def _same(one: Any, other: Any) -> bool:
    return one is other


class _Lent(dict[str, Any]):
    """A dict in memory, lent for a turn: what is looked up is brought, and what is passed on by `|` is not."""

    def __init__(self, values: dict[str, Any], loans: _Loans) -> None:
        super().__init__(_unseen(values))
        self._loans = loans

    def __getitem__(self, key: str) -> Any:
        value = self._loans.bring(super().__getitem__(key))
        super().__setitem__(key, value)
        return value

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # of its own, or dict(self) and **self would take values without looking them up

    # other ways to a value, by __getitem__
    get, items, values = Mapping.get, Mapping.items, Mapping.values  # type: ignore[assignment]
    pop, setdefault = MutableMapping.pop, MutableMapping.setdefault
    __eq__ = Mapping.__eq__

    def popitem(self) -> tuple[str, Any]:
        key, value = super().popitem()
        return key, self._loans.bring(value)

    def __or__(self, other: Any) -> Any:
        return _Lent(_unseen(self) | _unseen(other), self._loans) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return _Lent(_unseen(other) | _unseen(self), self._loans) if isinstance(other, dict) else NotImplemented

    def copy(self) -> Any:
        return self | {}

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def _unseen(values: dict[str, Any]) -> dict[str, Any]:
    """Return the items of a dict as they are, without looking them up."""
    return dict(dict.items(values))

"""State that is no parameter and no buffer: does it move where losses are evaluated again, and is it in checkpoints?"""

from __future__ import annotations

import itertools
import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError
from lightning_lead._lightning import rank_zero_warn
from lightning_lead._sharding import local_part
from lightning_lead.rules.base import AbstractGameRule

__all__ = ["check_repeatable", "unsaved_state"]

_LIBRARIES = ("torch.", "torchvision.", "torchmetrics.", "lightning.", "pytorch_lightning.", "lightning_lead.")

_HOME = "change it only where `not self.is_repeat`, or in on_game_step_end(batch)"


def check_repeatable(
    evaluate: Callable[[], Mapping[str, Tensor]],
    module: nn.Module,
    rule: AbstractGameRule,
    *,
    ignored: Collection[str],
) -> None:
    """Evaluate the losses twice, as replays.

    Refuses losses that differ, and state that moves, and names it: a pool, a metric, a codebook, a generator. Warns of
    a number that moves, which may be a counter. `ignored` are attributes of the module that belong to Lightning and to
    this package.
    """
    first = evaluate()
    before = _state(module, ignored)
    second = evaluate()
    after = _state(module, ignored)
    moved = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    numbers = [name for name in moved if isinstance(after.get(name), (int, float))]
    if not all(_same(first[name], second[name]) for name in first):
        why = "they are not the same twice"
        what = (
            f"{', '.join(moved)} moved" if moved else "nothing moved that the module holds; is a generator elsewhere?"
        )
    elif moved != numbers:
        why, what = "they move state", ", ".join(moved)
    else:
        if numbers:
            rank_zero_warn(
                f"{', '.join(numbers)} moved in a loss, and {rule.name} evaluates losses of a batch more than once: "
                f"it moves more often than game steps are played; {_HOME}"
            )
        return
    raise ConfigurationError(
        f"Cannot play {rule.name}, which evaluates losses of a batch more than once, because {why}. They may depend on "
        f"batch, weights, buffers and the global random numbers; where other state has to move, {_HOME}; or use "
        f"LEADStrategy(cross='extrapolated'), which evaluates them once (got: {what})"
    )


def unsaved_state(module: nn.Module, ignored: Collection[str]) -> dict[str, Any]:
    """Name -> a print of every attribute that a loss may move and no checkpoint holds: numbers, tensors, containers.

    Of layers of libraries, and of those with an extra state of their own, nothing is listed.
    """
    of_torch = vars(nn.Module()).keys()
    kinds = (int, float, complex, Tensor, list, dict, set, deque, torch.Generator, random.Random)
    prints: dict[str, Any] = {}
    for prefix, layer in module.named_modules():
        cls = type(layer)
        of_user = layer is module or not cls.__module__.startswith(_LIBRARIES)
        if of_user and cls.get_extra_state is nn.Module.get_extra_state:
            for name, value in vars(layer).items():
                own = name not in of_torch and not (layer is module and name in ignored)
                if own and (value is None or isinstance(value, kinds) or type(value).__module__.startswith("numpy")):
                    prints[f"{prefix}.{name}" if prefix else name] = _print(value, depth=3)
    return prints


def _same(a: Tensor, b: Tensor) -> bool:
    if a.device.type == "cpu":
        return torch.equal(a.nan_to_num(), b.nan_to_num())
    # sums on an accelerator may depend on the order in which its threads come
    return torch.allclose(a, b, rtol=torch.finfo(a.dtype).eps ** 0.5, equal_nan=True)


def _state(module: nn.Module, ignored: Collection[str]) -> dict[str, Any]:
    """Name -> a print of every attribute, parameter and generator that the module holds; buffers are frozen anyway."""
    prints: dict[str, Any] = {name: _sums(p) for name, p in module.named_parameters()}
    of_torch = vars(nn.Module()).keys()
    for prefix, layer in module.named_modules():
        for name, value in vars(layer).items():
            own = name in of_torch or name.startswith("__composable_api_state")  # where FSDP keeps what it has gathered
            if not own and not (layer is module and name in ignored):
                prints[f"{prefix}.{name}" if prefix else name] = _print(value, depth=3)
    return prints


def _print(value: Any, depth: int) -> Any:
    """Reduce a value to something that differs where its states do, as far as a look of a given depth tells."""
    numpy: Any = sys.modules.get("numpy")
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if isinstance(value, Tensor):
        return _sums(value)
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return value.getstate()
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return str(value.bit_generator.state)
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        return str(value.get_state())
    if numpy is not None and isinstance(value, numpy.ndarray):
        return value.shape, str(value.sum()) if value.dtype.kind in "biufc" else id(value)
    if isinstance(value, nn.Module) or depth == 0:
        return id(value)  # layers are looked at by themselves
    return type(value), tuple(_print(item, depth - 1) for item in _items(value))


def _sums(tensor: Tensor) -> Any:
    """Reduce a tensor to few numbers; a layer may keep a new tensor of the same numbers each time."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return id(tensor)
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    total, squares = torch.zeros((), dtype=wide), torch.zeros((), dtype=torch.float64)
    for part in (
        local_part(tensor.detach()).reshape(-1).split(2**20)
    ):  # a queue of features may be larger than what is left
        values = part.to("cpu", wide)
        total, squares = total + values.sum(), squares + values.abs().square().sum()
    return tuple(tensor.shape), str(total.item()), str(squares.item())  # as text NaN equals NaN


_ENDS = 64


def _last(value: Any, count: int) -> list[Any]:
    return [] if isinstance(value, (set, frozenset)) else [value[k] for k in range(-count, 0)]


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for pair in value.items():
            yield from pair
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield len(value)
        # of a long one its ends: a pool moves there, and a print of all would take seconds
        yield from value if len(value) <= 2 * _ENDS else [*itertools.islice(value, _ENDS), *_last(value, _ENDS)]
    else:
        yield id(value)
        for name, item in getattr(value, "__dict__", {}).items():
            yield name
            yield item

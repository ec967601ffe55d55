"""Labels of a conditional GAN: which networks take them, and as which argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from lightning_lead._errors import ConfigurationError

__all__ = ["call_network", "takes_labels", "with_labels"]


def takes_labels(network: nn.Module) -> bool:
    """Return True if labels are passed to the network.

    One that may take labels but names no classes is unconditional: its optional argument stays unused.
    """
    return _takes(network, _label_argument(network)[0])


def _takes(network: nn.Module, argument: inspect.Parameter | None) -> bool:
    return argument is not None and (
        argument.default is inspect.Parameter.empty or getattr(network, "num_classes", None) is not None
    )


_LABEL_NAMES = ("labels", "label", "class_labels", "classes")
_SHORT_NAMES = ("y", "c")  # which may mean anything, so they are looked for among keyword-only arguments alone
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _label_argument(network: nn.Module) -> tuple[inspect.Parameter | None, bool]:
    """Return the argument that labels go to, and whether it is the second one, which is passed by position.

    It is the one that the network's `label_argument` declares; or a second one without a default; or one of a usual
    name; or else the second.
    """
    forward = getattr(network, "_orig_mod", network).forward  # inside of what torch.compile has wrapped
    function = getattr(forward, "__func__", None)
    arguments = (_parameters(forward) if function is None else _of_method(function)[1:])[1:]
    second = arguments[0] if arguments and arguments[0].kind in _BY_POSITION else None
    declared = getattr(network, "label_argument", None)
    if declared is None and second is not None and second.default is inspect.Parameter.empty:
        return second, True
    for argument in arguments:
        short = argument.name in _SHORT_NAMES and argument.kind is inspect.Parameter.KEYWORD_ONLY
        if argument.name == declared or (declared is None and (argument.name in _LABEL_NAMES or short)):
            return argument, argument is second
    if declared is not None:
        raise ConfigurationError(
            f"Cannot pass labels to {type(network).__name__} because its forward has no argument {declared!r}; correct "
            f"its attribute label_argument (got arguments {[argument.name for argument in arguments]})"
        )
    return second, second is not None


def with_labels(part: Callable[..., Any], labels: Tensor) -> Callable[[Tensor], Any] | None:
    """Return a part of a conditional network with its labels given, or None if it takes none.

    They go to an argument of a usual name, or to a second one without a default; another second one may mean anything.
    """
    forward = getattr(part, "_orig_mod", part).forward if isinstance(part, nn.Module) else part
    arguments = _parameters(forward)[1:]
    for argument in arguments:
        required = argument is arguments[0] and argument.default is inspect.Parameter.empty
        if argument.name in (*_LABEL_NAMES, *_SHORT_NAMES) or (required and argument.kind in _BY_POSITION):
            by_position = argument.kind is inspect.Parameter.POSITIONAL_ONLY
            return (lambda inputs: part(inputs, labels)) if by_position else partial(part, **{argument.name: labels})
    return None


@functools.lru_cache
def _of_method(function: Callable[..., Any]) -> list[inspect.Parameter]:
    # a function's arguments do not change, and reading them takes longer than a small layer; networks are not kept
    return _parameters(function)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    named = (*_BY_POSITION, inspect.Parameter.KEYWORD_ONLY)
    return [p for p in inspect.signature(function).parameters.values() if p.kind in named]


def call_network(network: nn.Module, inputs: Tensor, labels: Tensor | None = None) -> Any:
    """Return a network's output, with labels if it takes them; it is an error if there are none."""
    argument, second = _label_argument(network)
    if argument is None or not _takes(network, argument):
        return network(inputs)
    if labels is None:
        raise ConfigurationError(
            f"Cannot call {type(network).__name__} because it takes labels and there are none; let the loader yield "
            "(samples, labels), or override unpack_batch(batch) and sample_labels(n)"
        )
    return network(inputs, labels) if second else network(inputs, **{argument.name: labels})

"""Arguments of constructors against their annotations: a wrong type is refused where it comes in, by its name.

Ranges, and choices among names, are the constructor's own to check.
"""

from __future__ import annotations

import functools
import numbers
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_lead._errors import ConfigurationError

__all__ = ["check_arguments"]

_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("an integer", lambda v: isinstance(v, numbers.Integral) and not isinstance(v, bool)),
    float: ("a number", lambda v: _is_number(v)),
    bool: ("True or False", lambda v: isinstance(v, bool) or type(v).__name__ in ("bool", "bool_")),  # numpy's
    str: ("a text", lambda v: isinstance(v, str)),
    types.NoneType: ("None", lambda v: v is None),
    Any: ("anything", lambda v: True),
}


def _is_number(value: Any) -> bool:
    """True of Python's and numpy's numbers, and of a tensor that holds one, as optimizers take for learning rates."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_arguments(cls: type, values: Mapping[str, Any], *, but: Collection[str] = ()) -> None:
    """Refuse arguments of a constructor that are not of their types; the first line of an `__init__`.

    Args:
        cls: the class whose `__init__` it is.
        values: its `locals()`.
        but: arguments that it checks by itself, types too.

    Raises:
        ConfigurationError: a wrong type.

    Example:
        >>> class Ball:
        ...     def __init__(self, radius: float = 1.0):
        ...         check_arguments(Ball, locals())
        >>> Ball(radius="1.0")
        Traceback (most recent call last):
        lightning_lead._errors.ConfigurationError: Cannot build Ball because radius must be a number (got '1.0')
    """
    for name, (wanted, fits) in _checks(cls).items():
        if name in values and name not in but and not fits(value := values[name]):
            got, advice = _SHORT.repr(value), ""
            if isinstance(value, type):
                got, advice = f"the class {value.__name__}", f"; pass an instance, as {value.__name__}(...)"
            elif isinstance(value, str) and fits([value]):
                advice = f"; pass [{value!r}]"
            raise ConfigurationError(f"Cannot build {cls.__name__} because {name} must be {wanted}{advice} (got {got})")


@functools.cache
def _checks(cls: type) -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """Return argument -> what it must be, in words and as a check."""
    hints = typing.get_type_hints(vars(cls)["__init__"])
    return {name: _check(hints[name]) for name in hints if name != "return"}


def _all(kinds: Iterable[Any]) -> tuple[list[str], list[Callable[[Any], bool]]]:
    found = [_check(kind) for kind in kinds]
    return [word for word, _ in found], [fits for _, fits in found]


def _check(kind: Any) -> tuple[str, Callable[[Any], bool]]:
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        words, checks = _all(parts)
        return f"{', '.join(words[:-1])} or {words[-1]}", lambda v: any(fits(v) for fits in checks)
    if origin is typing.Literal:
        return " or ".join(map(repr, parts)), lambda v: isinstance(v, str) and v in parts
    if origin is Callable:
        return "a function", callable
    if isinstance(origin, type) and issubclass(origin, Mapping):
        word, fits = _check(parts[1])
        return f"a mapping of names to {word}", lambda v: isinstance(v, Mapping) and all(map(fits, v.values()))
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return _check_items(origin, parts)
    if getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False):
        return "a function", callable
    return f"an instance of {kind.__name__}", lambda v: isinstance(v, kind)


def _check_items(origin: type, parts: tuple[Any, ...]) -> tuple[str, Callable[[Any], bool]]:
    """Return the check of a sequence, or of another iterable, and of what it holds."""
    like: Any = (list, tuple) if origin in (list, tuple) else origin  # recipes hand over lists where tuples are meant
    if origin is tuple and parts[-1] is not Ellipsis:
        words, checks = _all(parts)

        def fits_each(value: Any) -> bool:
            of_length = isinstance(value, like) and len(value) == len(checks)
            return of_length and all(fits(item) for fits, item in zip(checks, value, strict=True))

        return f"({', '.join(words)})", fits_each
    word, fits = _check(parts[0])

    def fits_all(value: Any) -> bool:
        if not isinstance(value, like) or isinstance(value, (str, bytes)):
            return False
        return iter(value) is value or all(map(fits, value))  # an iterator can be looked through once

    return f"{'a sequence' if issubclass(origin, Sequence) else 'an iterable'}, each item {word}", fits_all


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80

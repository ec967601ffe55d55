"""Old names that work for one more minor version, and warn.

The warning is a `FutureWarning`, which Python shows by default, unlike a `DeprecationWarning` in an imported module. It
points at the nearest caller outside of this package.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from lightning_lead._errors import ConfigurationError

__all__ = ["renamed_argument", "renamed_attribute", "warn_renamed"]

_T = TypeVar("_T")
_PACKAGE = __name__.partition(".")[0]


def renamed_argument(
    old: str,
    new: str,
    old_value: _T | None,
    new_value: _T,
    *,
    default: object,
    since: str,
    until: str,
    why: str = "",
) -> _T:
    """Return the value of an argument that has two names, and warn if it came under the old one.

    An old value of None means that the old name was not used; `default` is the default of the new one. Both names
    together are a ConfigurationError.
    """
    if old_value is None:
        return new_value
    if new_value != default:
        raise ConfigurationError(
            f"Cannot use {old} and {new} together because {old} is the old name of {new}; pass {new} alone "
            f"(got {old}={old_value!r} and {new}={new_value!r})"
        )
    warn_renamed(old, new, since, until, why)
    return old_value


def renamed_attribute(
    module: str, renamed: Mapping[str, str], *, since: str, until: str, why: str = ""
) -> Callable[[str], Any]:
    """Return a module's `__getattr__`, under which its old names lead to "package.module:new" and warn.

    The module says `__getattr__ = renamed_attribute(__name__, {"Old": "lightning_lead.rules:New"}, ...)`. New names are
    imported when an old one is used.
    """

    def __getattr__(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = renamed[name].partition(":")
        value = getattr(import_module(home), new)
        warn_renamed(f"{module}.{name}", f"{home}.{new}", since, until, why)
        return value

    return __getattr__


def warn_renamed(old: str, new: str, since: str = "0.2", until: str = "0.3", why: str = "") -> None:
    """Warn that an old name goes away; the warning points at the nearest caller outside of this package."""
    # No fixed stacklevel is right: a user, a subclass or the text of a --game may be what calls LEAD(alpha=...).
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    reason = f", because {why}" if why else ""
    message = f"{old} is called {new} since {since}{reason}; {old} goes away in {until}"
    warnings.warn(message, FutureWarning, stacklevel=level)

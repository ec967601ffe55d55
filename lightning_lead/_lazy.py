"""Names of a package that are imported on first use, and old names, which warn for one more minor version.

The warning is a `FutureWarning`, which Python shows by default, unlike a `DeprecationWarning` in an imported module. It
points at the nearest caller outside of this package.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_attributes", "renamed_attribute", "warn_renamed"]

_PACKAGE = __name__.partition(".")[0]


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which finds each name in its module and keeps it.

    `modules` holds module -> names, with spaces between them; a module begins with a dot, as in a relative import.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name], package), name)
        setattr(sys.modules[package], name, value)  # later look-ups skip this function
        return value

    return __getattr__


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

"""Who is held to the contract: every rule that `lightning_lead.rules` exports, and those in files given by --rule."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twins import TWINS

from lightning_lead import rules
from lightning_lead._checks import is_class
from lightning_lead.rules import AbstractGameRule

__all__ = ["FILES", "rules_under_test", "is_iterative", "label", "twin_of"]

FILES = "LIGHTNING_LEAD_CONTRACT_FILES"
"""Environment variable through which --rule reaches other processes too."""


def _in(module: Any) -> list[type[AbstractGameRule]]:
    # exported names first: a package may load them on first use, and `vars` would miss those not yet used
    values = [getattr(module, name) for name in sorted(getattr(module, "__all__", vars(module)))]
    classes = [value for value in values if is_class(value)]
    return [c for c in classes if issubclass(c, AbstractGameRule) and not inspect.isabstract(c)]


def _modules() -> list[Any]:
    found = []
    for path in filter(None, os.environ.get(FILES, "").split(os.pathsep)):
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(module)
    return found


def rules_under_test() -> list[AbstractGameRule]:
    """Every variant; with files, those of the rules defined in them alone."""
    modules = _modules()
    if modules:
        classes = [c for module in modules for c in _in(module) if c.__module__ == module.__name__]
    else:
        classes = _in(rules)
    return [variant for c in classes for variant in c.variants()]


def label(rule: AbstractGameRule) -> str:
    """The rule and its settings, readable in a test's name."""
    settings = {k: vars(rule)[k] for k in inspect.signature(type(rule)).parameters if k in vars(rule)}
    return f"{type(rule).__name__}({', '.join(f'{k}={_short(v)}' for k, v in settings.items())})"


def _short(value: Any) -> str:
    if isinstance(value, AbstractGameRule):
        return label(value)
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def twin_of(rule: AbstractGameRule) -> Callable[..., Any] | None:
    """The rule's twin: in `twins.py`, or a function `twin` beside it in a file of its own."""
    beside = [getattr(module, "twin", None) for module in _modules() if module.__name__ == type(rule).__module__]
    return TWINS.get(type(rule).__name__) or next(filter(None, beside), None)


def is_iterative(rule: AbstractGameRule) -> bool:
    """Whether a direction is the outcome of a solve, exact to its tolerance alone."""
    return rule.cost is None

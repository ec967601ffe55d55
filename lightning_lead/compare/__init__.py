"""Any game optimizers × one recipe × seeds: a table and a figure. `lightning-lead compare --help`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_lead.compare.command import compare

if TYPE_CHECKING:  # loaded on first use, so that help costs no torch
    from lightning_lead.compare.plan import Entry, Run, plan_runs
    from lightning_lead.compare.report import summary
    from lightning_lead.compare.runner import run_all

__all__ = ["Entry", "Run", "compare", "plan_runs", "run_all", "summary"]

_MODULES = {"Entry": "plan", "Run": "plan", "plan_runs": "plan", "run_all": "runner", "summary": "report"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

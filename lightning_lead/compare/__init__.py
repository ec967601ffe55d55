"""Any game optimizers × one recipe × seeds: a table and a figure. `lightning-lead compare --help`."""

from typing import TYPE_CHECKING, Any

from lightning_lead._lazy import lazy_attributes
from lightning_lead.compare.command import compare

if TYPE_CHECKING:  # loaded on first use, so that help costs no torch
    from lightning_lead.compare._plan import Entry, Run, plan_runs
    from lightning_lead.compare._report import summary
    from lightning_lead.compare._runner import run_all

__all__ = ["Entry", "Run", "compare", "plan_runs", "run_all", "summary"]

__getattr__: Any = lazy_attributes(
    __name__, {"._plan": "Entry Run plan_runs", "._report": "summary", "._runner": "run_all"}
)

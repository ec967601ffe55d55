"""Any game optimizers × one recipe × seeds: a table and a figure. `lightning-lead compare --help`."""

from lightning_lead.compare.plan import Entry, Run, plan_runs
from lightning_lead.compare.report import summary
from lightning_lead.compare.runner import compare, run_all

__all__ = ["Entry", "Run", "compare", "plan_runs", "run_all", "summary"]

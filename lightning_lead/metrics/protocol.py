"""The old home of `protocol_table`, which `lightning_lead.metrics` exports."""

from typing import Any

from lightning_lead._lazy import renamed_attribute

_RENAMED = {"protocol_table": "lightning_lead.metrics:protocol_table"}
__getattr__: Any = renamed_attribute(__name__, _RENAMED, since="0.2", until="0.3")

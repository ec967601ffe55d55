"""The protocol of a score, written beside it: a number without one cannot be compared with any other."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_lead import __version__
from lightning_lead._errors import ConfigurationError
from lightning_lead.calculus._float32 import float32_products

__all__ = [
    "protocol_table",
    "describe",
    "describe_device",
    "describe_dtype",
    "describe_protocol",
    "library_versions",
    "read_records",
]


def library_versions() -> dict[str, str]:
    """Return the versions of what computes the score."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the build, unlike the package's metadata
        "lightning-lead": __version__,
        **_lightning_version(),
        **{name: version(name) for name in ("torchmetrics", "torchvision")},
    }


def _lightning_version() -> dict[str, str]:
    """The version of Lightning under either of its names; both are released together."""
    for name in ("pytorch-lightning", "lightning"):
        with suppress(PackageNotFoundError):
            return {name: version(name)}
    return {}


def describe_device(device: torch.device | str) -> dict[str, Any]:
    """Return what the device is and how exactly it computes now; ask where the work is done."""
    device = torch.device(device)
    if device.type != "cuda":
        return {"name": device.type, **float32_products(device)}
    cudnn = torch.backends.cudnn.version()
    return {"name": torch.cuda.get_device_name(device), **float32_products(device), "cudnn": cudnn}


def describe_dtype(tensors: Iterable[Tensor]) -> str:
    """Return the coarsest dtype of floats among the tensors, as "float16"."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return str(coarsest).removeprefix("torch.")


def describe(record: Mapping[str, Any]) -> str:
    """Return a record of `GenerativeMetrics` in one line, for the log."""
    values = ", ".join(f"{name} {value:.5g}" for name, value in record["values"].items())
    protocol = record["protocol"]
    return f"step {record['step']}: {values} | {describe_protocol(protocol)}, {protocol['clipped_share']:.2%} clipped"


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """Return in one line how something was measured; not what came of it.

    A protocol of another kind than that of samples says it itself, by "summary".
    """
    if "summary" in protocol:
        return str(protocol["summary"])
    ema = protocol["ema"]
    weights = "live weights"
    if ema is not None:
        weights = f"EMA half-life {ema['halflife_images']:g} images" if "halflife_images" in ema else ema["callback"]
    low, high = protocol["value_range"]
    return (
        f"{protocol['num_samples']} fakes ({weights}, eval mode, seed {protocol['seed']}) against "
        f"{protocol['num_reference']} reals ({protocol['reference']}, sha256 {protocol['reference_sha256'][:12]}), "
        f"[{low:g}, {high:g}] to uint8 by rounding, {protocol['extractor']} {protocol['extractor_fingerprint'][:12]} "
        f"({protocol['num_features']} features)"
    )


def protocol_table(record: Mapping[str, Any]) -> str:
    """Return a record as a table in Markdown: the scores, and below them everything that decided them.

    Args:
        record: "values" and "protocol", as `GenerativeMetrics` and `lightning-lead evaluate` write them.

    Example:
        >>> print(protocol_table({"values": {"fid": 1.5}, "protocol": {"seed": 0}}))
        | score | value |
        |---|---|
        | fid | 1.5 |
        <BLANKLINE>
        | protocol | |
        |---|---|
        | seed | 0 |
    """
    scores = [
        f"| {name} | {'nan' if value is None else format(value, '.6g')} |" for name, value in record["values"].items()
    ]
    rows = [
        f"| {name} | {_cell(record[name])} |" for name in ("checkpoint", "images", "game", "step") if name in record
    ]
    rows += [f"| {name} | {_cell(value)} |" for name, value in record["protocol"].items()]
    return "\n".join(["| score | value |", "|---|---|", *scores, "", "| protocol | |", "|---|---|", *rows])


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records in a JSON file, none if there is no file; one of another kind is a ConfigurationError."""
    if not path.is_file():
        return []
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise _unreadable(path, "something else than a list of records")
    return records


def _unreadable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"Cannot add to the scores in {path} because it holds none; move it away, or write to another file "
        f"(got {reason})"
    )


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " to ".join(_cell(item) for item in value) if len(value) == 2 else ", ".join(map(_cell, value))
    words: dict[Any, str] = {None: "none", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    return format(value, ".6g") if isinstance(value, float) else str(value).replace("|", "\\|")

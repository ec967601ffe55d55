"""How a score was measured, written beside it: a number without its protocol cannot be compared with any other."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lightning_lead.callbacks.ema import GeneratorEMA

__all__ = ["describe", "describe_average", "library_versions", "read_records", "write_records"]


def library_versions() -> dict[str, str]:
    """Versions of what computes the score.

    Example:
        >>> sorted(library_versions())
        ['python', 'pytorch-lightning', 'torch', 'torchmetrics']
    """
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the build, unlike the package's metadata
        **{name: version(name) for name in ("pytorch-lightning", "torchmetrics")},
    }


def describe_average(ema: GeneratorEMA | None) -> dict[str, float | None] | None:
    """The averaging of the generator that was sampled, or None.

    Args:
        ema: the callback, if one was used.

    Example:
        >>> describe_average(GeneratorEMA(halflife_images=500))
        {'halflife_images': 500, 'rampup': 0.05}
    """
    return None if ema is None else {"halflife_images": ema.halflife_images, "rampup": ema.rampup}


def describe(record: Mapping[str, Any]) -> str:
    """A record in one line, for the log.

    Args:
        record: with "step", "stage", "values" and "protocol", as `GenerativeMetrics` makes it.
    """
    protocol = record["protocol"]
    values = ", ".join(f"{name} {value:.5g}" for name, value in record["values"].items())
    ema = protocol["ema"]
    weights = "live weights" if ema is None else f"EMA half-life {ema['halflife_images']:g} images"
    low, high = protocol["value_range"]
    return (
        f"step {record['step']}: {values} | {protocol['num_samples']} fakes ({weights}, eval mode, seed "
        f"{protocol['seed']}) against {protocol['num_reference']} reals ({protocol['reference']}, sha256 "
        f"{protocol['reference_sha256'][:12]}), [{low:g}, {high:g}] to uint8 by rounding, "
        f"{protocol['clipped_share']:.2%} clipped, {protocol['extractor']} {protocol['extractor_fingerprint'][:12]} "
        f"({protocol['num_features']} features)"
    )


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records in a file; none if there is no file.

    Args:
        path: of the JSON file.

    Example:
        >>> read_records(Path("no such file"))
        []
    """
    if not path.is_file():
        return []
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file at once, so that a reader, or a kill, never meets half of it.

    Args:
        path: of the JSON file; folders are made.
        records: plain numbers, strings and containers; what is not finite becomes null, as JSON has no word for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps([_finite(record) for record in records], indent=1, allow_nan=False), encoding="utf-8")
    os.replace(part, path)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

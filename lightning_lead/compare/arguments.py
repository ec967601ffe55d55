"""Whether `fit` takes the arguments of a comparison's runs, and what they amount to."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

import yaml

from lightning_lead._errors import ConfigurationError
from lightning_lead.cli import main as command_line
from lightning_lead.compare.plan import Run

__all__ = ["check_arguments"]


def check_arguments(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Refuse arguments that `fit` does not take, before a folder is made that remembers them.

    Args:
        runs: one of each game is looked at.

    Returns:
        Label -> the configuration that they amount to.

    Raises:
        ConfigurationError: with what the command line says of them.

    Example:
        >>> check_arguments([])
        {}
    """
    configurations: dict[str, dict[str, Any]] = {}
    for run in {run.entry.label: run for run in runs}.values():
        arguments = [argument for argument in run.arguments if not argument.startswith("--every=")]
        printed, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                command_line([*arguments, "--print_config"], run=False)
            except SystemExit as end:
                if end.code:
                    lines = [line for line in said.getvalue().splitlines() if line.strip()] or ["no reason"]
                    raise ConfigurationError(
                        f"Cannot run {run.entry.label} because fit does not take its arguments; "
                        f"correct them (got {lines[-1].strip()})"
                    ) from end
        configurations[run.entry.label] = yaml.safe_load(printed.getvalue()) or {}
    return configurations

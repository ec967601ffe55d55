"""A network built again from its configuration in a file."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_lead._errors import CheckpointMismatchError, ConfigurationError, first_line
from lightning_lead._trusted import TRUSTED, is_trusted

__all__ = ["build_network"]

_HARMLESS = ("lightning_lead.networks.", "torch.nn.")


def build_network(configuration: Mapping[str, Any]) -> nn.Module:
    """Build the network that a `ConfiguredModule` has described.

    A file of weights is to run nothing: classes are taken from this package's networks, from `torch.nn`, and from
    packages that are imported already or that the environment names.

    Args:
        configuration: "class_path" and "init_args".

    Raises:
        ConfigurationError: a class of another package, or one that is no network.
        CheckpointMismatchError: a class that is gone, or takes other arguments now.
    """
    path, arguments = configuration["class_path"], configuration["init_args"]
    network = _find_class(path)
    built = {name: _build_inner(value) for name, value in arguments.items()}
    try:
        return network(**built)
    except (TypeError, ConfigurationError) as error:
        raise CheckpointMismatchError(
            f"Cannot build {path} because it takes other arguments than when the file was written; build it yourself, "
            f"and pass network= (got {first_line(error)})"
        ) from error


def _build_inner(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"class_path", "init_args"}:
            return build_network(value)
        return {key: _build_inner(each) for key, each in value.items()}
    return [_build_inner(each) for each in value] if isinstance(value, list) else value


def _find_class(path: str) -> type[nn.Module]:
    package = path.partition(".")[0]
    if not (path.startswith(_HARMLESS) or package in sys.modules or is_trusted(package)):
        raise ConfigurationError(
            f"Cannot build {path} because an import runs the package, and a file of weights may name any; import "
            f"{package} first, set {TRUSTED}={package}, or pass network="
        )
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointMismatchError(
            f"Cannot build {path} because there is no such class; it may have moved, or stood in a script: build the "
            f"network yourself, and pass network= (got {type(error).__name__}: {first_line(error)})"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigurationError(f"Cannot build {path} because it is no torch.nn.Module; pass network=")
    return found

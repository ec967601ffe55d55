"""Old names of arguments that work for one more minor version, and warn."""

from __future__ import annotations

from typing import TypeVar

from lightning_lead._errors import ConfigurationError
from lightning_lead._lazy import warn_renamed

__all__ = ["renamed_argument"]

_T = TypeVar("_T")


def renamed_argument(
    old: str,
    new: str,
    old_value: _T | None,
    new_value: _T,
    *,
    default: object,
    since: str,
    until: str,
    why: str = "",
) -> _T:
    """Return the value of an argument that has two names, and warn if it came under the old one.

    An old value of None means that the old name was not used; `default` is the default of the new one. Both names
    together are a ConfigurationError.
    """
    if old_value is None:
        return new_value
    if new_value != default:
        raise ConfigurationError(
            f"Cannot use {old} and {new} together because {old} is the old name of {new}; pass {new} alone "
            f"(got {old}={old_value!r} and {new}={new_value!r})"
        )
    warn_renamed(old, new, since, until, why)
    return old_value

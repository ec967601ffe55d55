"""The errors of lightning-lead: what is wrong, what was got, what to do."""

from __future__ import annotations

__all__ = [
    "BusyFolderError",
    "CheckpointMismatchError",
    "ConfigurationError",
    "DifferentiationError",
    "DivergenceError",
    "HigherDerivativeError",
    "StorageError",
    "first_line",
]


class ConfigurationError(ValueError):
    """A setting that cannot work, refused at construction, at fit start, or at the first batch that shows it."""


class DifferentiationError(RuntimeError):
    """The game cannot be differentiated as the rule needs: twice, or with respect to the opponent."""


class HigherDerivativeError(DifferentiationError):
    """A second or third derivative that a rule asks for is missing: of a layer, of a penalty, or through a detach."""


class CheckpointMismatchError(RuntimeError):
    """A checkpoint that was written by another game: other networks, another rule, or another play."""


class StorageError(OSError):
    """A file or folder that cannot be written: the disk is full, the folder is gone, or is not one's own."""


class BusyFolderError(RuntimeError):
    """A folder that another process writes to."""


class DivergenceError(RuntimeError):
    """Too many directions of one player in a row that are not finite."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error, or else its type, to name the cause in another message.

    Args:
        error: somebody else's.

    Example:
        >>> first_line(ValueError("no\nbacktrace here")), first_line(ValueError())
        ('no', 'ValueError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]

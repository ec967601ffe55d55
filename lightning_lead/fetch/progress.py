"""A progress bar for bytes, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ProgressBar", "progress"]


class ProgressBar:
    """A progress bar on a terminal, and nothing elsewhere.

    Args:
        total: bytes.
        label: what they are; None shows nothing.

    Example:
        >>> bar = ProgressBar(10, "ten bytes")
        >>> bar.advance(10)
        >>> bar.close()
    """

    def __init__(self, total: int, label: str | None) -> None:
        from tqdm import tqdm  # comes with Lightning

        # disable=None: only where somebody is looking
        off = True if label is None else None
        self._bar = tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=off)
        self._done = 0

    def advance(self, count: int) -> None:
        """That many bytes more, or fewer."""
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        """That many bytes in all."""
        self._bar.update(done - self._done)
        self._done = done

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


@contextmanager
def progress(total: int, label: str | None) -> Iterator[ProgressBar]:
    """A progress bar that is closed at the end, however that comes.

    Args:
        total: bytes.
        label: what they are.

    Example:
        >>> with progress(10, "ten bytes") as bar:
        ...     bar.advance(10)
    """
    bar = ProgressBar(total, label)
    try:
        yield bar
    finally:
        bar.close()

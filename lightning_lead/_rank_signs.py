"""Signs of life: of this process's main thread, of an error's origin, and of other processes of this machine."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_lead._errors import ConfigurationError

__all__ = ["STUCK", "MainThread", "in_collective", "process_identity"]

STUCK = 5.0
"""Seconds after which a collective is taken for one that waits for a rank which waits elsewhere."""


class MainThread:
    """The thread that makes it, as seen from another one."""

    def __init__(self) -> None:
        self._thread, self._moved = threading.get_ident(), time.monotonic()
        self._place: tuple[tuple[int, int], ...] = ()
        self._looked = -STUCK

    def waits_in(self) -> str | None:
        """Name the collective in which it has not moved for a while; to be asked again and again."""
        now, frames = time.monotonic(), self._frames()
        if now - self._looked > STUCK:  # since then it may have moved, and frames are named anew
            self._moved = now
        self._looked = now
        place = tuple((id(frame), int(frame.f_lasti)) for frame in frames)
        if place != self._place:
            self._place, self._moved = place, time.monotonic()
        named = [frame.f_code.co_name for frame in frames if _is_distributed(frame.f_globals)]
        return named[0] if named and self.stands else None

    @property
    def stands(self) -> bool:
        """True if it has not moved for a while."""
        return time.monotonic() - self._moved > STUCK

    @property
    def saves(self) -> bool:
        """True while it saves a checkpoint."""
        return any(frame.f_code.co_name == "save_checkpoint" for frame in self._frames())

    def _frames(self) -> list[Any]:
        frames, frame = [], sys._current_frames().get(self._thread)
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames


def in_collective(error: BaseException) -> bool:
    """Return True if an error was raised in a collective, and so may be another rank's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or isinstance(error, ConfigurationError):
        return False
    names = trace.tb_frame.f_globals
    return _is_distributed(names) or names.get("__name__") == "lightning_lead._rank_notes"


def _is_distributed(names: Mapping[str, Any]) -> bool:
    name = str(names.get("__name__", ""))
    return name.startswith("torch.distributed.") and not name.startswith("torch.distributed.elastic")


def process_identity(pid: int) -> list[Any]:
    """Return [the view of processes, pid, when it began] of a process that lives; of another one nothing is known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        view = os.readlink("/proc/self/ns/pid")
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return ["", pid, ""] if state in "ZX" else [f"{boot} {view}", pid, rest[18]]
    except OSError:  # it is gone; or there is no such folder here
        return ["", pid, ""]

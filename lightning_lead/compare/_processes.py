"""The processes of a comparison: several at a time, each on a GPU of its own, and ended together."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

__all__ = ["BUSY", "GPUs", "Processes", "terminable", "uses_one_gpu", "visible_gpus"]

BUSY = 75
"""The exit status of a run whose folder another process holds (EX_TEMPFAIL): it has not failed."""


class Processes:
    """Processes that are running now, to be ended together."""

    def __init__(self) -> None:
        self._ended = False
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], **settings: Any) -> int | None:
        """Return the exit status, or None if all were ended first; settings are those of `subprocess.Popen`."""
        read, write = os.pipe()  # the system closes this end when this process ends: see `_start`
        try:
            with self._lock:
                if self._ended:
                    return None
                # in a session of its own: Ctrl-C reaches this process alone, which then ends all of that session
                process = subprocess.Popen(command, start_new_session=True, stdin=read, **settings)
                self._alive.add(process)
            status = process.wait()
        finally:
            os.close(read)
            os.close(write)
        with self._lock:
            self._alive.discard(process)
        return None if self._ended else status

    def end(self) -> None:
        """End all, with their own children, and let none begin."""
        with self._lock:
            self._ended = True
            for process in self._alive:
                if hasattr(os, "killpg"):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()


class GPUs:
    """One GPU for each run that is under way, as long as there are enough; a free one is handed out again.

    Without this, all runs that ask for one device would take the first. Names are those of CUDA_VISIBLE_DEVICES; fewer
    than two are not handed out. More jobs than GPUs share them evenly.
    """

    def __init__(self, names: Sequence[str], *, jobs: int) -> None:
        self._free: queue.Queue[str] | None = None
        if len(names) > 1:
            self._free = queue.Queue()
            for job in range(jobs):
                self._free.put(names[job % len(names)])

    @contextlib.contextmanager
    def one(self, *, wanted: bool = True) -> Iterator[dict[str, str]]:
        """Add what is yielded to the environment of a run, which has the GPU until the context is left."""
        if self._free is None or not wanted:
            yield {}
            return
        name = self._free.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": name}
        finally:
            self._free.put(name)


def visible_gpus(environment: Mapping[str, str], count: int | None = None) -> list[str]:
    """Return the GPUs of this process, by the names under which another process sees them alone.

    `count` defaults to torch's, which wakes none of them.
    """
    count = torch.cuda.device_count() if count is None else count
    given = environment.get("CUDA_VISIBLE_DEVICES")
    names = [str(k) for k in range(count)] if given is None else [name.strip() for name in given.split(",")]
    return names[:count]  # the list ends at the first name that is none


def uses_one_gpu(trainer: Mapping[str, Any]) -> bool:
    """Return True if settings of a trainer ask for one GPU and leave open which."""
    return str(trainer.get("accelerator")) in ("auto", "gpu", "cuda") and str(trainer.get("devices")) == "1"


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Treat a request to terminate as Ctrl-C inside of the context."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""The processes of a comparison: several at a time, each on a card of its own, and ended together."""

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

__all__ = ["Cards", "Processes", "uses_one_card", "visible_cards"]


class Processes:
    """Those that are running now, to be ended together.

    Example:
        >>> Processes().run(["true"])
        0
    """

    def __init__(self) -> None:
        self.ended = False
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], **settings: Any) -> int | None:
        """The exit status; None if it was not to be.

        Args:
            command: program and arguments.
            **settings: of `subprocess.Popen`.
        """
        with self._lock:
            if self.ended:
                return None
            # in a session of its own: Ctrl-C reaches this process alone, which then ends all of that session
            process = subprocess.Popen(command, start_new_session=True, **settings)
            self._alive.add(process)
        status = process.wait()
        with self._lock:
            self._alive.discard(process)
        return None if self.ended else status

    def end(self) -> None:
        """End all, with their own children, and let none begin."""
        with self._lock:
            self.ended = True
            for process in self._alive:
                if hasattr(os, "killpg"):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()


class Cards:
    """One card for each run that is under way, as long as there are enough; a free one is handed out again.

    Without this all runs that ask for one device would take the first.

    Args:
        names: of the cards, as CUDA_VISIBLE_DEVICES takes them; fewer than two are not handed out.
        jobs: runs at a time; more of them than cards share cards evenly.

    Example:
        >>> cards = Cards(["0", "1"], jobs=2)
        >>> with cards.one() as first, cards.one() as second:
        ...     first, second
        ({'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'})
        >>> with Cards(["0"], jobs=2).one() as environment:
        ...     environment
        {}
    """

    def __init__(self, names: Sequence[str], *, jobs: int) -> None:
        self._free: queue.Queue[str] | None = None
        if len(names) > 1:
            self._free = queue.Queue()
            for job in range(jobs):
                self._free.put(names[job % len(names)])

    @contextlib.contextmanager
    def one(self, *, wanted: bool = True) -> Iterator[dict[str, str]]:
        """What to add to the environment of a run, which has the card until the context is left.

        Args:
            wanted: whether the run takes one card.
        """
        if self._free is None or not wanted:
            yield {}
            return
        card = self._free.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": card}
        finally:
            self._free.put(card)


def visible_cards(environment: Mapping[str, str], count: int | None = None) -> list[str]:
    """The cards that this process may use, by the names under which another process sees them alone.

    Args:
        environment: with CUDA_VISIBLE_DEVICES or without.
        count: how many there are; default as torch counts them, without waking them.

    Example:
        >>> visible_cards({}, count=2), visible_cards({"CUDA_VISIBLE_DEVICES": "3, GPU-8f2a"}, count=2)
        (['0', '1'], ['3', 'GPU-8f2a'])
    """
    count = torch.cuda.device_count() if count is None else count
    given = environment.get("CUDA_VISIBLE_DEVICES")
    names = [str(k) for k in range(count)] if given is None else [name.strip() for name in given.split(",")]
    return names[:count]  # the list ends at the first name that is none


def uses_one_card(trainer: Mapping[str, Any]) -> bool:
    """Whether a run takes one card, and does not mind which.

    Args:
        trainer: its settings.

    Example:
        >>> [uses_one_card({"accelerator": "auto", "devices": devices}) for devices in (1, "1", 8, "auto", [3], "3,")]
        [True, True, False, False, False, False]
    """
    return str(trainer.get("accelerator")) in ("auto", "gpu", "cuda") and str(trainer.get("devices")) == "1"

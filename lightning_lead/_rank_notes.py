"""Notes that ranks leave each other beside their collectives: where they stand, and why one of them ends.

A collective in which a rank is missing, or has come with something else, waits for half an hour, or brings the process
down without a word. So ranks compare what they are about to do before, and say why they end, through the key-value
store that every process group has. Nothing is sent while all is as it was: a rank that changes something, or ends an
epoch, waits for the others at its *moment* (a number that counts alike on every rank), and a thread of each other rank
answers for those that have gone past it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_lead._errors import ConfigurationError
from lightning_lead._rank_differences import WAITS, differences, ranks_named
from lightning_lead._rank_signs import STUCK, MainThread, process_identity

__all__ = ["RankNotes"]

PERIOD = 0.5
"""Seconds between looks at the store."""

PATIENCE = 20.0
"""Seconds that this process has to end by itself after another rank has failed."""

LINGER = 5.0
"""Seconds at most that a rank which ends waits for the others to read why."""

WITHOUT_A_WORD = "ended without a word, as by a signal, os._exit() or for want of memory"

KEEPER_GONE = f"{WITHOUT_A_WORD}, or the store that it keeps is out of reach"


class RankNotes:
    """The notes of one fit.

    Args:
        store: of the process group.
        rank: of this process.
        world_size: number of ranks.
        limit: seconds after which a rank that does not come is given up, as the process group does.
    """

    def __init__(self, store: Any, rank: int, world_size: int, *, limit: float) -> None:
        self._store, self.rank, self.others = store, rank, [r for r in range(world_size) if r != rank]
        self.reasons: dict[int, str] = {}
        """Of other ranks: why they have ended."""
        self._limit, self._unanswered = limit, 0
        self._moment = self._passed = self._news = 0
        self._waited: list[int] = []  # the moments at which this rank has asked the others
        self._lock = threading.Lock()  # over the note for a moment
        self._agreed: Any = None
        self._describe: Callable[[], Mapping[str, Any]] = dict
        self._asked: set[int] = set()
        self._main = MainThread()
        self._ends_at = math.inf
        self._finished = threading.Event()
        self._processes: dict[int, list[Any]] = {}
        self._me = process_identity(os.getpid())
        self._set("who", rank, self._me)
        self._thread = threading.Thread(target=self._watch, name="rank notes", daemon=True)
        self._thread.start()

    # ---- agreement ---------------------------------------------------------------------------------------------------

    def pass_by(self, key: Any, describe: Callable[[], Mapping[str, Any]], *, ask: bool = False) -> None:
        """Go on if `key` is what it was at the last time, or else `agree` with the other ranks on what it describes.

        Args:
            key: what this rank is about to do, cheap to make and to compare.
            describe: says it in words; in another thread as well.
            ask: agree in any case.

        Raises:
            ConfigurationError: another rank is about to do something else.
            RuntimeError: another rank has failed.
        """
        if ask or key != self._agreed:
            self.agree(describe())
            self._agreed = key
        else:
            self._describe = describe
            with self._lock:
                self._moment += 1
                self._passed = self._moment

    def agree(self, content: Mapping[str, Any]) -> None:
        """Wait for all ranks, and refuse to go on where they differ.

        Args:
            content: what this rank is about to do, as a nest of dicts of JSON's values; floats may differ by rounding.

        Raises:
            ConfigurationError: another rank is about to do something else.
            RuntimeError: another rank has failed.
        """
        if self._finished.is_set():
            return
        with self._lock:
            self._moment = moment = self._moment + 1
            self._waited.append(moment)
            self._set(f"at {moment}", self.rank, content)
        self._set("asks", self.rank, moment)
        self._tell()
        self._await([self._key(f"at {moment}", r) for r in self.others])
        contents = {r: self._get(f"at {moment}", r) for r in self.others} | {self.rank: dict(content)}
        until = time.monotonic() + 2 * STUCK  # a rank that seemed to be stuck may come yet
        while any(WAITS in each for each in contents.values()) and time.monotonic() < until:
            time.sleep(0.1)
            contents |= {r: self._get(f"at {moment}", r) for r in self.others}
        if found := differences(contents):
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise ConfigurationError(
                "Cannot go on because ranks are about to do different things, and would wait for each other or drift "
                "apart; build the module, its data and its trainer alike on every rank, and change them on all of "
                f"them after the same step (got {'; '.join(found[:3])}{more})"
            )
        if len(self._waited) > 2:  # at the one before, all have read this one
            self._store.delete_key(self._key(f"at {self._waited[-3]}", self.rank))

    def _await(self, keys: Sequence[str]) -> None:
        began, pause = time.monotonic(), 0.0005
        while not self._store.check(keys):
            if self.reasons:
                raise RuntimeError(f"Cannot go on because {self._named(self.reasons)}")
            if time.monotonic() - began > self._limit:
                late = [r for key, r in zip(keys, self.others, strict=True) if not self._store.check([key])]
                raise RuntimeError(
                    f"Cannot go on because {', '.join(f'rank {r}' for r in late)} has not come for {self._limit:.0f} s "
                    "to where ranks compare what they do next; see what it waits for"
                )
            time.sleep(pause)
            pause = min(0.05, 2 * pause)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End the looks at the store, at a moment that all ranks have reached."""
        self._finished.set()

    def fail(self, reason: str) -> None:
        """Tell the other ranks why this one ends, and wait a little until they have read it.

        Args:
            reason: in one line.
        """
        self._finished.set()
        try:
            self._set("reason", self.rank, reason)
            self._tell()
            self._linger("seen")
        except Exception:  # the store is gone, and who keeps it
            pass

    def explain(self) -> str | None:
        """Return why a collective of this rank has failed, as far as the others say it; None if they know no reason."""
        self._finished.set()
        try:
            self._set("answered", self.rank, True)
            self._tell()
            until = time.monotonic() + LINGER
            while not self.reasons and time.monotonic() < until:
                self._read()
                late = [r for r in self.others if not self._has("answered", r)]
                silent = [r for r in late if not self._has("lives", r)]
                if not silent and time.monotonic() > until - LINGER / 2:
                    break
                time.sleep(0.1)
            reasons = self.reasons or dict.fromkeys(silent, WITHOUT_A_WORD)
            for r in silent if not self.reasons else ():  # for those who have not noticed yet
                self._set("reason", r, WITHOUT_A_WORD)
                self._tell()
            reasons = reasons or dict.fromkeys(late, "is late: it lives, and has not come to the others")
            self._set("seen", self.rank, True)
            if self.rank == 0:  # which keeps the store, as a rule
                self._linger("seen")
            return self._named(reasons) if reasons else None
        except Exception:  # the store does not answer
            return self._named(self.reasons or {0: KEEPER_GONE})

    def _linger(self, what: str) -> None:
        until = time.monotonic() + LINGER
        left = [r for r in self.others if self.reasons.get(r) != WITHOUT_A_WORD]
        while left and time.monotonic() < until:
            left = [r for r in left if not (self._has(what, r) or self._has("reason", r))]
            time.sleep(0.05)

    def _named(self, reasons: Mapping[int, str]) -> str:
        said = "; ".join(f"rank {r} {reason}" for r, reason in sorted(reasons.items()))
        left = [r for r in sorted([self.rank, *self.others]) if r not in reasons]
        return f"{said} ({ranks_named(left)} {'answer' if len(left) > 1 else 'answers'})"

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._finished.wait(PERIOD):
            try:
                self._look()
                self._unanswered = 0
            except RuntimeError:  # as torch's errors of the store are
                self._unanswered += 1
                if self._unanswered > 2 and not self._finished.is_set():
                    self.reasons.setdefault(0, KEEPER_GONE)
            self._end_if_stuck()

    def _look(self) -> None:
        self._look_for_the_dead()
        if (news := self._store.add(self._key("news", -1), 0)) != self._news:
            self._news = news
            self._read()
            if self.reasons:
                self._set("seen", self.rank, True)
            if any(self._has("answered", r) for r in self.others):
                self._set("lives", self.rank, True)
            self._asked |= {int(self._get("asks", r)) for r in self.others if self._has("asks", r)}
        for moment in sorted(self._asked):
            with self._lock:
                if moment in self._waited:  # this rank has come itself
                    self._asked.discard(moment)
                elif moment <= self._passed:
                    self._set(f"at {moment}", self.rank, self._said())
                    self._asked.discard(moment)
                elif (where := self._main.waits_in()) is not None:
                    self._set(f"at {moment}", self.rank, {"is next": f"{where}(), in which it waits", WAITS: True})

    def _said(self) -> Mapping[str, Any]:
        try:
            return self._describe()
        except Exception as error:  # the module may be changing at this moment
            return {"is next": f"something that cannot be said ({type(error).__name__})"}

    def _read(self) -> None:
        for r in self.others:
            if r not in self.reasons and self._has("reason", r):
                self.reasons[r] = str(self._get("reason", r))

    def _look_for_the_dead(self) -> None:
        """Of ranks that share this one's view of processes: see if they are still there."""
        for r in self.others:
            if r not in self._processes and self._has("who", r):
                self._processes[r] = self._get("who", r)
        for r, process in self._processes.items():
            near = process[0] == self._me[0] != ""
            if near and process != process_identity(process[1]) and not self._has("reason", r):
                self._set("reason", r, WITHOUT_A_WORD)
                self._tell()

    def _end_if_stuck(self) -> None:
        """End this process if another rank has failed and this one waits: nothing else may end it."""
        if not self.reasons:
            return
        waits, now = self._main.waits_in() is not None, time.monotonic()
        self._ends_at = min(self._ends_at, now + PATIENCE)
        stuck = self._main.stands and (waits or not self._main.saves)
        if stuck and now > self._ends_at and not self._finished.is_set():
            print(f"rank {self.rank}: Cannot go on because {self._named(self.reasons)}", file=sys.stderr, flush=True)
            os._exit(1)

    # ---- the store ---------------------------------------------------------------------------------------------------

    def _key(self, what: str, rank: int) -> str:
        return f"{what}/{rank}"

    def _set(self, what: str, rank: int, value: Any) -> None:
        self._store.set(self._key(what, rank), json.dumps(value))

    def _get(self, what: str, rank: int) -> Any:
        return json.loads(self._store.get(self._key(what, rank)))

    def _has(self, what: str, rank: int) -> bool:
        return bool(self._store.check([self._key(what, rank)]))

    def _tell(self) -> None:
        self._store.add(self._key("news", -1), 1)

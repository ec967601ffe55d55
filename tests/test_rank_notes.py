"""Notes between ranks, each in a thread of its own, by a store that they share."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch

from lightning_lead import _rank_notes
from lightning_lead._errors import ConfigurationError
from lightning_lead._rank_differences import differences
from lightning_lead._rank_notes import RankNotes
from lightning_lead._rank_signs import in_collective


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(_rank_notes, "PERIOD", 0.02)
    monkeypatch.setattr(_rank_notes, "LINGER", 1.0)


@contextmanager
def notes_of(count):
    store = torch.distributed.HashStore()
    store.set_timeout(timedelta(seconds=30))
    notes = [RankNotes(store, rank, count, limit=30) for rank in range(count)]
    try:
        yield notes
    finally:
        for each in notes:
            each.finish()


def at_once(*calls):
    """What each call raises, or None, made in threads of their own."""
    raised = [None] * len(calls)

    def run(k, call):
        try:
            call()
        except Exception as error:
            raised[k] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return raised


def test_ranks_that_agree_go_on_and_leave_few_keys_behind():
    with notes_of(3) as notes:
        for k in range(10):
            assert at_once(*(lambda n=n, k=k: n.agree({"is next": k}) for n in notes)) == [None] * 3
        assert sum(notes[0]._has(f"at {moment}", 0) for moment in range(1, 11)) == 2


def test_ranks_that_differ_all_get_the_same_reason():
    with notes_of(2) as notes:
        raised = at_once(*(lambda n=n: n.agree({"clip": n.rank, "weights": {"a": 1.0}}) for n in notes))
    assert [type(error) for error in raised] == [ConfigurationError] * 2
    assert str(raised[0]) == str(raised[1])
    assert "clip: rank 0 0, rank 1 1" in str(raised[0])


def test_nothing_is_sent_while_nothing_changes():
    with notes_of(2) as notes:
        assert at_once(*(lambda n=n: n.pass_by("a", dict) for n in notes)) == [None] * 2
        news = notes[0]._store.add(notes[0]._key("news", -1), 0)
        for each in notes:
            for _ in range(5):
                each.pass_by("a", dict)  # neither waits for the other
        assert notes[0]._store.add(notes[0]._key("news", -1), 0) == news


def test_one_that_has_gone_past_is_answered_for():
    with notes_of(2) as (first, second):
        assert at_once(*(lambda n=n: n.pass_by("a", lambda: {"layer": "free"}) for n in (first, second))) == [None] * 2
        first.pass_by("a", lambda: {"layer": "free"})
        with pytest.raises(ConfigurationError, match="layer: rank 0 free, rank 1 frozen"):
            second.pass_by("b", lambda: {"layer": "frozen"})


def test_one_that_waits_for_the_others_hears_of_a_fault():
    with notes_of(2) as (first, second):
        raised = at_once(lambda: first.agree({}), lambda: second.fail("failed: ValueError: boom"))
        assert raised[1] is None
        assert str(raised[0]) == "Cannot go on because rank 1 failed: ValueError: boom (rank 0 answers)"
        assert in_collective(raised[0])


def test_survivors_name_the_reason_or_who_is_silent():
    with notes_of(3) as (first, second, third):
        third.fail("failed: ValueError: boom")
        assert first.explain() == second.explain() == "rank 2 failed: ValueError: boom (ranks 0 and 1 answer)"
    with notes_of(3) as (first, second, third):
        third.finish()  # its thread answers no more, as that of a process that is gone
        found = []
        at_once(*(lambda n=n: found.append(n.explain()) for n in (first, second)))
        assert found == [f"rank 2 {_rank_notes.WITHOUT_A_WORD} (ranks 0 and 1 answer)"] * 2


def test_one_that_lives_and_does_not_come_is_late_and_not_lost():
    with notes_of(2) as (first, _):
        assert first.explain() == "rank 1 is late: it lives, and has not come to the others (rank 0 answers)"


def test_a_process_that_is_gone_is_noticed_without_its_word(monkeypatch):
    with notes_of(2) as (first, _):
        monkeypatch.setattr(_rank_notes, "process_identity", lambda pid: ["", pid, ""])
        with pytest.raises(RuntimeError, match="rank 1 ended without a word"):
            first.agree({})


def test_differences_are_of_rounding_at_least():
    assert differences({0: {"norm of": {"a": 1.0}}, 1: {"norm of": {"a": 1.000001}}}) == []
    assert differences({0: {"norm of": {"a": 1.0}}, 1: {"norm of": {"a": 1.001}}}) == [
        "norm of a: rank 0 1.0, rank 1 1.001"
    ]
    nan = {"norm of": {"a": float("nan")}}
    assert differences({0: nan, 1: dict(nan)}) == []


def test_an_error_of_a_collective_is_told_from_an_own_one():
    with pytest.raises(ValueError, match="process group") as collective:
        torch.distributed.barrier()
    with pytest.raises(RuntimeError) as own:
        torch.linspace(0, 1, -1)
    assert in_collective(collective.value)
    assert not in_collective(own.value)
    assert not in_collective(ValueError())

"""Combinations of settings that stand for all of them."""

from __future__ import annotations

import itertools

import pytest
from pairs import pairwise


@pytest.mark.parametrize("sizes", [(2, 3), (5, 2, 4), (3, 3, 3, 3), (7, 1, 2), (4, 4, 4)])
def test_any_two_values_meet_and_few_combinations_are_tried(sizes, monkeypatch):
    monkeypatch.delenv("LIGHTNING_LEAD_THOROUGH", raising=False)
    settings = [[f"{name}{value}" for value in range(size)] for name, size in zip("abcd", sizes, strict=False)]
    found = pairwise(*settings)
    for first, second in itertools.combinations(range(len(sizes)), 2):
        assert {(each[first], each[second]) for each in found} == set(
            itertools.product(settings[first], settings[second])
        )
    largest = sorted(sizes)[-2:]
    assert len(found) <= 1.5 * largest[0] * largest[1]
    assert len(found) == len(set(found))


def test_all_are_tried_on_demand(monkeypatch):
    monkeypatch.setenv("LIGHTNING_LEAD_THOROUGH", "1")
    assert pairwise("ab", "cd", "ef") == list(itertools.product("ab", "cd", "ef"))

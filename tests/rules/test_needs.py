"""What a rule needs is one frozen object; class attributes of before are taken over, with a warning."""

import dataclasses

import pytest

from lightning_lead.rules import AbstractGameRule, RuleNeeds


class Plain(AbstractGameRule):
    def init(self, point):
        return {}

    def direction(self, oracle, players, state):
        return {player: oracle.gradient(player) for player in players}, state


def test_needs_are_frozen_and_empty_by_default():
    assert Plain().needs == RuleNeeds()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plain().needs.second_order = True


def test_attributes_of_before_are_taken_over_and_warn():
    with pytest.warns(FutureWarning) as told:

        class Older(Plain):
            revisits = True
            couples = True

            def __init__(self, exact):
                self.second_order = exact

            def settle(self, before, after, players, state):
                return {}, state

    assert "Older.revisits is called needs = RuleNeeds(repeats_batch=...)" in str(told[0].message)
    assert len(told) == 3
    with pytest.warns(FutureWarning, match="second_order"):
        rule = Older(True)
    assert rule.needs == RuleNeeds(repeats_batch=True, uses_opponent=True, second_order=True)
    assert Plain().needs == RuleNeeds()
    assert rule.adjust_weights({}, {}, ["x"], {"a": 1}) == ({}, {"a": 1})

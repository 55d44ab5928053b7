"""Slots and bytes handed out in the order of a line."""

from __future__ import annotations

import math

from loraland.engine.allotment import Offer, Offers, Room


def test_slots_go_to_those_who_wait_ahead_of_who_is_in_them():
    free, late = Offer(1, None, math.inf), Offer(2, "a", 3)
    offers = Offers([free, late])
    assert offers.take(0) == free
    assert offers.take(3) is None
    assert offers.take(2) == late
    assert offers.take(0) is None


def test_expected_slots_are_counted_but_may_be_taken_by_who_is_ready():
    offers = Offers([Offer(1, None, math.inf)])
    assert offers.expect(0) is True
    assert offers.expect(1) is False
    assert offers.take(2) == Offer(1, None, math.inf)


def test_load_that_does_not_fit_closes_the_door_behind_it():
    room = Room(10, idle=True)
    assert [room.admit(size) for size in (6, 4, 1, 0)] == [True, True, False, False]


def test_load_over_the_budget_starts_only_alone():
    assert Room(5, idle=False).admit(6, over=True) is False
    room = Room(5, idle=True)
    assert room.admit(6, over=True) is True
    assert room.admit(1) is False
    room = Room(5, idle=True)
    assert room.admit(5) is True
    assert room.admit(1, over=True) is False

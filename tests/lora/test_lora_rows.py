"""Rows know their segments, and equal rows are recognised."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loraland.lora.rows import Rows, Segment

SLOTS = st.lists(st.integers(0, 5), max_size=40)


@given(SLOTS)
def test_segments_cover_all_tokens_in_order_and_neighbours_differ(slots: list[int]) -> None:
    rows = Rows.of(slots, "cpu")
    again = [part.slot for part in rows.segments for _ in range(part.start, part.stop)]
    assert again == slots == rows.slots.tolist()
    assert rows.tokens == len(slots)
    assert all(a.slot != b.slot for a, b in zip(rows.segments, rows.segments[1:], strict=False))


@given(SLOTS)
def test_the_base_is_no_adapter(slots: list[int]) -> None:
    rows = Rows.of(slots, "cpu")
    assert rows.present == tuple(sorted(set(slots) - {0}))
    assert rows.distinct == len(set(slots) - {0})
    assert rows.base_only == (rows.distinct == 0)


@given(SLOTS, SLOTS)
def test_keys_are_equal_for_equal_rows_only(one: list[int], two: list[int]) -> None:
    assert (Rows.of(one, "cpu").key == Rows.of(two, "cpu").key) == (one == two)


def test_a_window_keeps_the_segments_it_is_told_and_makes_the_rest_base() -> None:
    rows = Rows.of([1, 1, 0, 2, 3, 3, 2], "cpu")
    window = rows.window(3, 7, frozenset({Segment(3, 4, 2), Segment(6, 7, 2)}))
    assert window.slots.tolist() == [2, 0, 0, 2]


def test_a_negative_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="slot -1 does not exist"):
        Rows.of([0, -1], "cpu")


def test_rows_on_the_device_follow_their_tensor() -> None:
    slots = torch.tensor([1, 2])
    rows = Rows.on_device(slots)
    slots[0] = 0
    assert rows.slots.tolist() == [0, 2]
    assert rows.present is None and rows.distinct is None and not rows.base_only

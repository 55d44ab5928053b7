"""Rows of several runs in common passes: every row once, within the budget, runs side by side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loraland.training.examples import Example
from loraland.training.fused_batches import Row, merge

LENGTHS = st.lists(st.tuples(st.integers(1, 4), st.integers(2, 60)), min_size=1, max_size=40)


def rows_of(lengths: list[tuple[int, int]]) -> list[Row]:
    """One row for each (slot, length), those of a slot together."""
    return [
        Row(slot, Example(tuple(range(length)), 1), 1.0, 0.0, str(place))
        for place, (slot, length) in enumerate(sorted(lengths))
    ]


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_every_row_is_in_one_pass_and_no_pass_is_over_the_budget(
    lengths: list[tuple[int, int]], budget: int
) -> None:
    rows = rows_of(lengths)
    passes = merge(rows, budget)
    assert sorted(row.stream for together in passes for row in together) == sorted(
        row.stream for row in rows
    )
    for together in passes:
        padded = len(together) * max(len(row.example.ids) for row in together)
        assert padded <= budget or len(together) == 1


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_rows_of_one_run_stand_together_and_passes_differ_in_length(
    lengths: list[tuple[int, int]], budget: int
) -> None:
    passes = merge(rows_of(lengths), budget)
    for together in passes:
        assert [row.slot for row in together] == sorted(row.slot for row in together)
    longest = [max(len(row.example.ids) for row in together) for together in passes]
    shortest = [min(len(row.example.ids) for row in together) for together in passes]
    assert all(end <= start for end, start in zip(longest, shortest[1:], strict=False))


def test_rows_of_several_runs_share_a_pass() -> None:
    [together] = merge(rows_of([(1, 9), (2, 10), (3, 10)]), budget_tokens=30)
    assert [row.slot for row in together] == [1, 2, 3]

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.evaluation.samples import Sample
from loraland.report.excerpt import OUTCOMES, clipped, excerpt

ANSWER = Sample(0, "q", "t", "{}", "o", "o", 1.0, None, "stop", 5, 4, 1.0)


def answers(scores: list[float]) -> list[Sample]:
    return [replace(ANSWER, item=n, prompt=f"q{n}", score=s) for n, s in enumerate(scores)]


def test_what_the_adapter_broke_comes_first_then_what_it_mended() -> None:
    found = excerpt(answers([1, 0, 1, 0]), answers([1, 1, 0, 0]), most=10)
    assert [pair.outcome for pair in found.shown] == list(OUTCOMES)
    assert [pair.ours.item for pair in found.shown] == [1, 2, 3, 0]
    assert set(found.counts.values()) == {1} and found.total == 4


def test_the_greatest_change_of_an_outcome_comes_first() -> None:
    found = excerpt(answers([0.4, 0.1, 0.3]), answers([0.6, 0.9, 0.6]), most=10)
    assert [pair.ours.item for pair in found.shown] == [1, 2, 0]


def test_where_room_is_short_broken_answers_get_half_of_it_and_no_outcome_is_hidden() -> None:
    ours = [0.0] * 20 + [1.0] * 20 + [0.0] * 20 + [1.0] * 20
    theirs = [1.0] * 20 + [0.0] * 20 + [0.0] * 20 + [1.0] * 20
    found = excerpt(answers(ours), answers(theirs), most=12)
    shown = [pair.outcome for pair in found.shown]
    assert [shown.count(outcome) for outcome in OUTCOMES] == [6, 2, 2, 2]
    assert shown == sorted(shown, key=list(OUTCOMES).index)


@given(
    st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1]))),
    st.integers(0, 12),
)
def test_as_many_are_shown_as_there_are_and_may_be(
    scores: list[tuple[float, float]], most: int
) -> None:
    ours, theirs = answers([a for a, _ in scores]), answers([b for _, b in scores])
    found = excerpt(ours, theirs, most)
    assert len(found.shown) == min(most, len(scores))
    assert len({pair.ours.item for pair in found.shown}) == len(found.shown)
    assert sum(found.counts.values()) == found.total == len(scores)


def test_all_answers_count_for_tokens_and_cuts_not_only_those_shown() -> None:
    ours = [
        replace(one, tokens=10 * n, finish_reason="length")
        for n, one in enumerate(answers([1, 1, 1]))
    ]
    found = excerpt(ours, answers([1, 1, 1]), most=1)
    assert (found.ours.tokens, found.ours.cut_off) == (10.0, 3)
    assert (found.theirs.tokens, found.theirs.cut_off) == (4.0, 0)


def test_answers_to_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="different items"):
        excerpt(answers([1, 1]), answers([1]), most=1)


def test_a_long_text_keeps_its_ends_and_says_how_much_is_left_out() -> None:
    text = "a" * 5_000 + "the question?"
    cut = clipped(text, most=1_000)
    assert cut.startswith("aaa") and cut.endswith("the question?")
    assert "[… 4,013 characters left out …]" in cut
    assert clipped("short") == "short"

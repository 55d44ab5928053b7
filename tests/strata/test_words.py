"""Telling words: what stands out is told, what is alike is not, and markup stays text."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from loraland.strata.language.words import LEAST_Z, telling_words, words_of


def texts(count: int, more: str, seed: int) -> list[str]:
    draws = random.Random(seed)
    common = ["the", "bird", "was", "seen", "near", "a", "house", "by", "road", "and", "at"]
    return [" ".join([*draws.choices(common, k=6), more]) for _ in range(count)]


def test_a_word_of_a_small_stratum_comes_first_and_common_words_are_not_told() -> None:
    found = telling_words(texts(30, "lake", 0), texts(600, "wood", 1))
    assert found[0].word == "lake" and found[0].here == 1.0 and found[0].there == 0.0
    assert found[0].z > 5
    assert "wood" not in {one.word for one in found} and "the" not in {one.word for one in found}


def test_texts_of_one_kind_have_at_most_a_chance_word() -> None:
    found = telling_words(texts(200, "x", 0), texts(200, "x", 1))
    assert all(one.z < 3.5 for one in found)


def test_a_pair_of_words_is_told_only_where_neither_of_them_is() -> None:
    here, there = ["not good"] * 90, ["good"] * 45 + ["not"] * 45 + ["bad"] * 90
    assert [one.word for one in telling_words(here, there)] == ["not good"]
    assert [one.word for one in telling_words(["the lake"] * 90, ["the wood"] * 90)] == ["lake"]


def test_nothing_is_told_without_texts_on_both_sides() -> None:
    assert telling_words([], ["a"]) == [] == telling_words(["a"], [])
    assert telling_words(["...", "!?"], ["--"]) == []


@given(st.lists(st.text(max_size=40), max_size=12), st.lists(st.text(max_size=40), max_size=12))
def test_any_text_gives_finite_scores_and_shares(here: list[str], there: list[str]) -> None:
    for one in telling_words(here, there):
        assert one.z >= LEAST_Z and 0 <= one.there <= 1 and 0 < one.here <= 1
        assert one.word in {word for text in here for word in words_of(text)}

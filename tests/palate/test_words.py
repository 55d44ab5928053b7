from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.palate.catalogue import Catalogue
from loraland.palate.words import (
    identity_words,
    lexicon,
    own_words,
    singular,
    spellings,
    telling_words,
)


@pytest.mark.parametrize(
    ("word", "bare"),
    [
        ("cherries", "cherry"),
        ("peaches", "peach"),
        ("tannins", "tannin"),
        ("spices", "spice"),
        ("grass", "grass"),
        ("citrus", "citrus"),
        ("cassis", "cassis"),
        ("this", "this"),
        ("tea", "tea"),
    ],
)
def test_plurals_become_singular(word: str, bare: str) -> None:
    assert singular(word) == bare


def test_every_word_of_the_lexicon_is_found_in_a_text() -> None:
    for word in lexicon():
        assert singular(word) == word, f"'{word}' can never be met: texts hold '{singular(word)}'"


def test_names_are_left_out_and_flavours_stay(catalogue: Catalogue) -> None:
    identity = identity_words(catalogue)
    kind = catalogue.kinds[0].lower()
    assert kind in identity
    assert not identity & lexicon().keys()
    words = telling_words(f"This {kind} of Taster shows Cherries and oak", identity)
    assert words == ["cherry", "oak"]


def test_a_wine_s_own_name_is_left_out_of_its_own_text_only(catalogue: Catalogue) -> None:
    own = own_words(catalogue)
    name = catalogue.makers[0].split()[0].lower()
    assert name in own[0]
    assert telling_words(f"{name} plum", frozenset(), own[0]) == ["plum"]
    assert telling_words(f"{name} plum", frozenset()) == [name, "plum"]


@given(st.text(max_size=200))
def test_spellings_stand_in_the_text(text: str) -> None:
    assert all(spelled in text.lower() for spelled in spellings(text).values())

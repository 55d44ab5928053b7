"""Words of a description that may tell a flavour: lower case, singular, without names.

Identity words (variety, region, taster; a wine's own winery and designation) are left out, so that
clusters are flavours rather than grapes. Words of the aroma lexicon always stay. Knows no weights.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from loraland.palate.catalogue import Catalogue

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
# Words of any review, which tell no flavour.
_REVIEW_WORDS = (
    "wine drink bottle vintage flavor flavour aroma palate nose note finish show offer bottling "
    "winery vineyard glass blend grape variety feel taste year age come long bring ready made best "
    "also give lead follow make just now good quality like touch hint layer cuvee producer "
    "estate appellation bodied bit slightly alongside little quite plenty style time character "
    "need open add deliver showing edge mix whiff scent color mouth mouthfeel texture attractive "
    "delicious pretty young aging aftertaste ll ve re don"
)
# Short names of grapes, which no column holds.
_NICKNAMES = "cab cabs zin zins chard sauv cabernet petite gsm pinot grigio"
STOP_WORDS = ENGLISH_STOP_WORDS | frozenset(_REVIEW_WORDS.split())


@cache
def lexicon() -> Mapping[str, str]:
    """Word -> family, as in `lexicon.csv`: families of an aroma wheel and of structure."""
    found: dict[str, str] = {}
    text = resources.files("loraland.palate").joinpath("lexicon.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        for word in row["words"].split():
            found.setdefault(word, row["family"])
    return found


@cache
def singular(word: str) -> str:
    """The S-stemmer of Harman (1991), J. Am. Soc. Inf. Sci. 42: plurals only; words on -is stay.

    >>> [singular(word) for word in ("cherries", "tannins", "grass", "citrus")]
    ['cherry', 'tannin', 'grass', 'citrus']
    """
    if len(word) <= 3 or not word.endswith("s"):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1] if not word.endswith(("shes", "ches", "xes", "sses")) else word[:-2]
    return word if word.endswith(("us", "ss", "is")) else word[:-1]  # 'is': this, cassis


def bare_words(text: str) -> list[str]:
    """All words, lower case and singular, in their order."""
    return [singular(word) for word in _WORD.findall(text.lower())]


def spellings(text: str) -> dict[str, str]:
    """Singular form -> the word as it first stands in the text, lower case."""
    found: dict[str, str] = {}
    for word in _WORD.findall(text.lower()):
        found.setdefault(singular(word), word)
    return found


def identity_words(catalogue: Catalogue) -> frozenset[str]:
    """Words of kinds, places and critics, but none of the lexicon."""
    names: set[str] = {*catalogue.kinds, *catalogue.places, *catalogue.critics}
    return frozenset(_words_of(names) | set(_NICKNAMES.split())) - lexicon().keys()


def own_words(catalogue: Catalogue) -> list[frozenset[str]]:
    """Of each item, the words of its title and maker, but none of the lexicon."""
    flavours = lexicon().keys()
    return [
        frozenset(_words_of((title, maker))) - flavours
        for title, maker in zip(catalogue.titles, catalogue.makers, strict=True)
    ]


def telling_words(
    text: str, identity: frozenset[str], own: frozenset[str] = frozenset()
) -> list[str]:
    """The words of a text that are no stop words and no names, in their order."""
    return [
        word
        for word in bare_words(text)
        if len(word) > 2 and word not in STOP_WORDS and word not in identity and word not in own
    ]


def _words_of(names: Iterable[str]) -> set[str]:
    return {word for name in names for word in bare_words(name)}

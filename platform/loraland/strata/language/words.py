"""The words by which some texts differ from others. Pure.

Log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, Political Analysis
16, eq. 16 to 22): rare words do not win by chance, and every word has a z-score.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

LEAST_Z = 3.0  # of a word that is told: hundreds are looked at, of which chance tells about one
PRIOR_WORDS = 500.0  # how many words the prior counts for, all texts together
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


class Word(NamedTuple):
    """A word that is more frequent here than there."""

    word: str
    z: float  # of its log-odds ratio
    here: float  # share of the texts here that have it
    there: float


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, and pairs of neighbours."""
    single = [found.group().lower() for found in _WORD.finditer(text)]
    return single + [f"{one} {two}" for one, two in pairwise(single)]


def telling_words(here: Sequence[str], there: Sequence[str], most: int = 12) -> list[Word]:
    """At most so many words that stand out in some texts against others, the clearest first.

    A word counts once a text. A pair of words is left out where one of its words alone is told
    already. Empty when there is nothing to compare, or nothing stands out.
    """
    if not here or not there:
        return []
    ours = Counter(word for text in here for word in set(words_of(text)))
    theirs = Counter(word for text in there for word in set(words_of(text)))
    scored = sorted(
        (
            Word(word, z, ours[word] / len(here), theirs[word] / len(there))
            for word, z in _z_scores(ours, theirs).items()
            if z >= LEAST_Z
        ),
        key=lambda one: (-one.z, one.word),
    )
    told: list[Word] = []
    for one in scored:
        if len(told) == most:
            break
        parts = one.word.split(" ")
        if len(parts) == 1 or not {other.word for other in told} & set(parts):
            told.append(one)
    return told


def _z_scores(ours: Counter[str], theirs: Counter[str]) -> dict[str, float]:
    both = ours + theirs
    if len(both) < 2:
        return {}  # no word could be used in place of it
    prior = PRIOR_WORDS / both.total()  # times a word's count: its pseudo-count
    n, m, all_prior = ours.total(), theirs.total(), PRIOR_WORDS

    def log_odds(count: float, total: int, pseudo: float) -> float:
        return math.log((count + pseudo) / (total + all_prior - count - pseudo))

    found = {}
    for word in ours:
        pseudo = prior * both[word]
        difference = log_odds(ours[word], n, pseudo) - log_odds(theirs[word], m, pseudo)
        variance = 1 / (ours[word] + pseudo) + 1 / (theirs[word] + pseudo)
        found[word] = difference / math.sqrt(variance)
    return found

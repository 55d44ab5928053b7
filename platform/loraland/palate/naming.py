"""Names of palates: the words that tell one from the others.

Class-based TF-IDF (Grootendorst 2022, arXiv 2203.05794): all descriptions of a palate count as one
document. Knows weights of words and memberships; nothing of what a word means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from loraland.palate.catalogue import Floats, Ints
from loraland.palate.words import lexicon

TERMS = 12  # kept of each palate
IN_A_NAME = 3
FLAVOUR_BONUS = 1.5  # words of the lexicon say more to a reader than 'structured'


def telling_terms(
    counts: Any, terms: Sequence[str], palate: Ints, palates: int
) -> list[tuple[str, ...]]:
    """Of each palate its most telling terms, best first; `counts` is (items, terms), sparse.

    Weight: tf * log(1 + A / f) * (lift - 1), tf the share of the palate's items that have the term,
    f the sum of shares over palates, A the mean over palates of their sums over terms, lift the
    share over its mean over palates; words of the lexicon count more. A word of a chosen term is
    not repeated.
    """
    present = (counts > 0).astype(np.float32)
    members = sparse.csr_matrix(
        (np.ones(len(palate), np.float32), (palate, np.arange(len(palate)))),
        shape=(palates, len(palate)),
    )
    sizes = np.maximum(np.bincount(palate, minlength=palates), 1)[:, None]
    share = (members @ present).toarray() / sizes  # (palates, terms)
    total = np.maximum(share.sum(axis=0), 1e-12)
    weight = share * np.log1p(share.sum() / palates / total)
    weight *= np.maximum(share / (total / palates) - 1, 0)
    flavours = lexicon().keys()
    bonus = [FLAVOUR_BONUS if any(w in flavours for w in t.split()) else 1.0 for t in terms]
    weight *= np.asarray(bonus)
    return [_distinct(weight[one], terms) for one in range(palates)]


def names_of(terms: Sequence[tuple[str, ...]]) -> list[str]:
    """A short name for each palate; of equal ones all but the first get their number."""
    names: list[str] = []
    for place, own in enumerate(terms):
        name = ", ".join(own[:IN_A_NAME]) or "mixed"
        names.append(f"{name} ({place})" if name in names else name)
    return names


def _distinct(weight: Floats, terms: Sequence[str]) -> tuple[str, ...]:
    chosen: list[str] = []
    used: set[str] = set()
    for place in np.argsort(-weight, kind="stable"):
        words = terms[place].split()
        if weight[place] <= 0 or len(chosen) == TERMS:
            break
        if used.isdisjoint(words):
            chosen.append(terms[place])
            used.update(words)
    return tuple(chosen)

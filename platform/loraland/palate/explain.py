"""Why an item is in a list: its palate, words it shares with what was liked, its value for money.

Every word shown stands in the item's own description, spelled as it is there; nothing is made up.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

from loraland.palate.model import PalateModel
from loraland.palate.preference import Profile
from loraland.palate.pricing import Objective
from loraland.palate.words import lexicon, spellings, telling_words

MOST_WORDS = 6
LIKED_READ = 30  # newest liked items whose words are looked at


class Reason(NamedTuple):
    """An explanation, in parts for pages and as one sentence for people."""

    palate: str  # name
    theta: float  # the person's share of that palate
    shared: tuple[str, ...]  # words of this item's text that liked ones or own words have too
    typical: tuple[str, ...]  # words of this item's text that tell its palate
    percentile: float | None  # of the palate's priced items that give no more for the price
    usual_price: float | None  # what this quality usually costs in this palate
    sentence: str


def liked_words(model: PalateModel, person: Profile) -> Counter[str]:
    """Word -> how many of the newest liked texts have it; a person's own words come first."""
    counts: Counter[str] = Counter()
    for place in person.liked[-LIKED_READ:]:
        counts.update(spellings(model.catalogue.texts[int(place)]).keys())
    counts.update(dict.fromkeys(person.said, LIKED_READ))
    return counts


def reason_for(
    model: PalateModel,
    person: Profile,
    place: int,
    objective: Objective,
    liked: Counter[str] | None = None,
) -> Reason:
    """Why the item at `place` is for this person; `liked` are their `liked_words`, if known."""
    liked = liked_words(model, person) if liked is None else liked
    palate = int(model.palate[place])
    here = model.palates[palate]
    spelled = spellings(model.catalogue.texts[place])
    telling = _telling(model, place)
    shared = _spelled(_shared(model, liked, telling), spelled)
    typical = [word for term in here.terms for word in term.split() if word in telling]
    own = _spelled(list(dict.fromkeys(typical)), spelled)
    price = float(model.catalogue.price[place])
    percentile = float(model.values.percentile[objective][place])
    usual = None
    if math.isfinite(price):
        usual = model.curves.usual_price(palate, float(model.quality[place]))
    points = float(model.catalogue.quality[place])
    return Reason(
        palate=here.name,
        theta=float(person.theta[palate]),
        shared=shared,
        typical=own,
        percentile=percentile if math.isfinite(percentile) else None,
        usual_price=usual,
        sentence=_sentence(here.name, shared or own, bool(shared), points, price, usual),
    )


def telling_of(model: PalateModel, place: int) -> tuple[str, ...]:
    """Words of an item's own text: those that tell its palate first, then rarer flavours."""
    telling = _telling(model, place)
    palate = model.palates[int(model.palate[place])]
    own = [word for term in palate.terms for word in term.split() if word in telling]
    index, idf = model.features.term_index, model.features.idf
    flavours = [word for word in telling if word in lexicon() and word in index]
    flavours.sort(key=lambda word: (-float(idf[index[word]]), word))
    spelled = spellings(model.catalogue.texts[place])
    return _spelled(list(dict.fromkeys([*own, *flavours])), spelled)


def _telling(model: PalateModel, place: int) -> set[str]:
    own: frozenset[str] = frozenset()
    if model.features.settings.without_names:
        names = f"{model.catalogue.titles[place]} {model.catalogue.makers[place]}"
        own = frozenset(spellings(names)) - lexicon().keys()
    return set(telling_words(model.catalogue.texts[place], model.features.identity, own))


def _shared(model: PalateModel, liked: Counter[str], telling: set[str]) -> list[str]:
    """Words of the item that liked items have too: in most of them first, then the rarer ones."""
    index, idf = model.features.term_index, model.features.idf
    known = [word for word in telling if liked[word] and word in index]
    flavours = lexicon().keys()

    def weight(word: str) -> float:
        bonus = 1.5 if word in flavours else 1.0
        return -bonus * math.log1p(liked[word]) * float(idf[index[word]])

    return sorted(known, key=lambda word: (weight(word), word))


def _spelled(words: list[str], spelled: dict[str, str]) -> tuple[str, ...]:
    return tuple(spelled[word] for word in words if word in spelled)[:MOST_WORDS]


def _sentence(
    name: str,
    words: tuple[str, ...],
    are_shared: bool,
    points: float,
    price: float,
    usual: float | None,
) -> str:
    said = f"from the palate '{name}'"
    if words:
        said += f"; {'shares' if are_shared else 'tells of'} {', '.join(words)}"
    if usual is not None:
        said += f"; {points:.4g} points at {price:g}, usual here for such points: {usual:.0f}"
    return said

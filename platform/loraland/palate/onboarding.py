"""Cards for somebody who has said nothing yet: a few wines that tell palates apart.

The first are spread over the whole space (farthest-point selection), the next one is that whose
answer is expected to leave the least doubt about theta. Stores nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loraland.errors import InvalidRequest
from loraland.palate.catalogue import Floats, Ints
from loraland.palate.explain import telling_of
from loraland.palate.model import PalateModel
from loraland.palate.preference import Tastes, TasteSettings, profile

MOST_CARDS = 24
PER_PALATE = 12  # items that may be a card: those most of their palate
LIKED_ELSEWHERE = 0.1  # chance to like a wine of a palate that is not one's own
LIKED_AT_HOME = 0.9


class Card(NamedTuple):
    """A wine to like or not."""

    key: str
    title: str
    words: tuple[str, ...]  # of its description, telling its palate
    palate_id: str
    palate_name: str
    quality: float
    price: float | None


def first_cards(model: PalateModel, count: int = 8) -> tuple[Card, ...]:
    """Cards far from each other, the same for everybody.

    Farthest-point selection (Gonzalez 1985, Theor. Comput. Sci. 38) from the largest palate's most
    typical item on; a palate gives a second card when each has given one. Raises InvalidRequest.
    """
    if not 1 <= count <= MOST_CARDS:
        raise InvalidRequest(f"{count} cards; 1 to {MOST_CARDS} can be had")
    pool = _typical(model)
    places, palates = model.places[pool], model.palate[pool]
    largest = int(np.argmax(model.share))
    start = np.flatnonzero(palates == largest)
    at = int(start[0]) if len(start) else 0
    chosen, distance = [at], np.full(len(pool), np.inf)
    used = np.zeros(len(model.palates), dtype=np.int64)
    used[palates[at]] += 1
    while len(chosen) < min(count, len(pool)):
        distance = np.minimum(distance, 1 - places @ places[chosen[-1]])
        distance[chosen] = -np.inf
        rounds = used[palates] - used[np.unique(palates)].min()
        at = int(np.argmax(np.where(rounds == 0, distance, -np.inf)))
        if not np.isfinite(distance[at]):
            at = int(np.argmax(distance))
        chosen.append(at)
        used[palates[at]] += 1
    return tuple(_card(model, int(pool[at])) for at in chosen)


def next_card(
    model: PalateModel, tastes: Tastes, settings: TasteSettings | None = None
) -> Card | None:
    """The card whose answer is expected to tell most; None when all have been answered."""
    person = profile(model, tastes, settings)
    pool = np.setdiff1d(_typical(model), person.seen)
    if not len(pool):
        return None
    gain = entropy_reduction(person.theta, model.membership[pool].astype(np.float64))
    return _card(model, int(pool[int(np.argmax(gain))]))


def entropy_reduction(theta: Floats, membership: Floats) -> Floats:
    """(items,) nats by which an answer to each item is expected to lessen the doubt about theta.

    Theta is taken as the belief in which palate is the person's; a wine is liked with the chance
    of its membership there, between LIKED_ELSEWHERE and LIKED_AT_HOME.
    """
    like = LIKED_ELSEWHERE + (LIKED_AT_HOME - LIKED_ELSEWHERE) * membership  # (items, palates)
    chance = like @ theta
    after_like = _entropy(like * theta / chance[:, None])
    after_dislike = _entropy((1 - like) * theta / (1 - chance)[:, None])
    expected = chance * after_like + (1 - chance) * after_dislike
    return np.asarray(_entropy(theta[None, :])[0] - expected)


def _entropy(shares: Floats) -> Floats:
    """(rows,) in nats."""
    return np.asarray(-np.sum(shares * np.log(np.maximum(shares, 1e-300)), axis=1))


def _typical(model: PalateModel) -> Ints:
    """Positions of items that are most of their palate, each palate's best first."""
    found = []
    for palate in range(len(model.palates)):
        own = model.members[palate]
        order = np.argsort(-model.membership[own, palate], kind="stable")
        found.append(own[order[:PER_PALATE]])
    return np.concatenate(found)


def _card(model: PalateModel, place: int) -> Card:
    palate = model.palates[int(model.palate[place])]
    price = float(model.catalogue.price[place])
    return Card(
        model.catalogue.keys[place],
        model.catalogue.titles[place],
        telling_of(model, place),
        palate.id,
        palate.name,
        float(model.catalogue.quality[place]),
        price if np.isfinite(price) else None,
    )

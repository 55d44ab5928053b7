"""Puts a list together from scores: places per palate, items unlike each other, caps.

Maximal marginal relevance (Carbonell and Goldstein 1998): an item's worth to a list is
lambda * S / max S - (1 - lambda) * its largest cosine to what is in it. Told scores, places and
codes; knows no people.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from loraland.palate.catalogue import Floats, Ints
from loraland.palate.model import PalateModel
from loraland.palate.scoring import ListSettings

POOL = 600  # best items that a round chooses among, at most


def quotas(theta: Floats, preferred: tuple[int, ...], count: int) -> dict[int, int]:
    """Palate -> places, by theta over the preferred ones, by largest remainders."""
    shares = theta[list(preferred)]
    exact = count * shares / shares.sum()
    places = np.floor(exact).astype(int)
    for at in np.argsort(-(exact - places), kind="stable")[: count - int(places.sum())]:
        places[at] += 1
    return {palate: int(n) for palate, n in zip(preferred, places, strict=True)}


def spread(
    model: PalateModel,
    total: Floats,
    theta: Floats,
    preferred: tuple[int, ...],
    count: int,
    settings: ListSettings,
) -> list[int]:
    """Positions of a list, best first; shorter than `count` where caps and scores allow no more.

    Items of score -inf are never in it. When no palate with places left has a candidate, the
    places no longer bind; caps always do.
    """
    left = total.copy()
    shelf = _Shelf(model, settings, quotas(theta, preferred, count) if settings.quota else {})
    while len(shelf.chosen) < count:
        possible = int(np.isfinite(left).sum())
        if not possible:
            break
        pool = _pool(model, preferred, left, min(POOL, possible))
        shelf.take(pool, left[pool], count)
        left[pool] = -np.inf  # each of it is chosen or beyond a cap
        left[shelf.capped()] = -np.inf
    return shelf.chosen


def beyond_caps(model: PalateModel, chosen: list[int], settings: ListSettings) -> Ints:
    """Positions of what a list with these items has no room for."""
    shelf = _Shelf(model, settings, {})
    for place in chosen:
        shelf.add(place)
    return shelf.capped()


class _Shelf:
    """A list that is being filled."""

    def __init__(self, model: PalateModel, settings: ListSettings, places: dict[int, int]) -> None:
        self.chosen: list[int] = []
        self._model, self._settings, self._places = model, settings, places
        catalogue = model.catalogue
        self._caps = (
            (catalogue.maker_codes, settings.per_maker, Counter[int]()),
            (catalogue.kind_codes, settings.per_kind, Counter[int]()),
        )

    def take(self, pool: Ints, total: Floats, count: int) -> None:
        """Choose from a pool until the list is full or nothing in it may be chosen."""
        relevance = total / max(float(total.max()), 1e-12)
        places, palates = self._model.places[pool], self._model.palate[pool]
        free = np.ones(len(pool), dtype=bool)
        nearest = np.zeros(len(pool))
        for place in self.chosen:
            nearest = np.maximum(nearest, places @ self._model.places[place])
        while len(self.chosen) < count:
            for codes, most, counts in self._caps:
                full = [code for code, n in counts.items() if n >= most]
                free &= ~np.isin(codes[pool], full)
            if not free.any():
                return
            open_ = free & np.isin(palates, [c for c, n in self._places.items() if n > 0])
            if not open_.any():
                open_ = free
            weight = self._settings.diversity
            value = np.where(open_, weight * relevance - (1 - weight) * nearest, -np.inf)
            at = int(np.argmax(value))
            free[at] = False
            self.add(int(pool[at]))
            nearest = np.maximum(nearest, places @ places[at])

    def add(self, place: int) -> None:
        """Put an item into the list."""
        self.chosen.append(place)
        palate = int(self._model.palate[place])
        if palate in self._places:
            self._places[palate] -= 1
        for codes, _, counts in self._caps:
            if codes[place] >= 0:  # an unknown maker is no maker
                counts[int(codes[place])] += 1

    def capped(self) -> Ints:
        """Positions of all items that caps keep out now."""
        out = np.zeros(len(self._model.catalogue), dtype=bool)
        for codes, most, counts in self._caps:
            full = [code for code, n in counts.items() if n >= most]
            if full:
                out |= np.isin(codes, full)
        return np.flatnonzero(out)


def _pool(model: PalateModel, preferred: tuple[int, ...], total: Floats, size: int) -> Ints:
    """The best items, with some of each preferred palate, best first; all of finite score."""
    own = [np.argpartition(-total, size - 1)[:size]]
    few = max(20, size // (4 * len(preferred)))
    for palate in preferred:
        places = model.members[palate]
        places = places[np.isfinite(total[places])]
        if len(places) > few:
            places = places[np.argpartition(-total[places], few - 1)[:few]]
        own.append(places)
    pool = np.unique(np.concatenate(own))
    return np.asarray(pool[np.argsort(-total[pool], kind="stable")])

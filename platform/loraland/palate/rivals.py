"""Rankers that are judged side by side: this recommender, parts of it, and what is simpler.

Each takes a case and gives positions, best first, none of them in the history. `served` is the list
as people get it, with caps, quota and diversity; the others rank by a score alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from loraland.palate.cases import Case, popularity
from loraland.palate.catalogue import Floats, Ints
from loraland.palate.features import Vectors
from loraland.palate.model import PalateModel
from loraland.palate.preference import profile
from loraland.palate.recommend import recommend
from loraland.palate.scoring import ListSettings, Wish, score

Ranker = Callable[[Case, int], Ints]  # case, how many -> positions

SERVED = "palates, as served"
BY_SCORE = "palates, by score"
WITHOUT_PRICE = "palates, without price"
POPULAR, POINTS, POINTS_PER_PRICE = "most reviewed", "highest points", "points per price"


class HardModel(PalateModel):
    """The same palates by k-means alone: every item belongs to its nearest centre, wholly."""

    @cached_property
    def membership(self) -> Vectors:
        """(items, palates) zeros and ones."""
        return self.memberships(self.places)

    def memberships(self, places: Vectors) -> Vectors:
        """(items, palates) zeros and ones."""
        eye = np.eye(len(self.palates), dtype=np.float32)
        return np.asarray(eye[self.mixture.nearest_centre(places)])


def rankers(model: PalateModel, cases: Sequence[Case], seed: int = 0) -> dict[str, Ranker]:
    """All rankers by name, in the order in which they are shown."""
    catalogue = model.catalogue
    hard = HardModel(**{f: getattr(model, f) for f in model.__dataclass_fields__})
    plain = ListSettings(explore=0.0)
    no_price = replace(plain, use_value=False)
    with np.errstate(invalid="ignore"):
        per_price = np.nan_to_num(catalogue.quality / catalogue.price, nan=-1.0)
    found: dict[str, Ranker] = {
        SERVED: _served(model, plain),
        "palates, as served, without price": _served(model, no_price),
        BY_SCORE: by_score(model, plain),
        WITHOUT_PRICE: by_score(model, no_price),
        "palates alone (no nearness)": by_score(model, replace(no_price, beta=0.0)),
        "k-means alone (no nearness)": by_score(hard, replace(no_price, beta=0.0)),
        "k-means, with price": by_score(hard, plain),
        "nearest on TF-IDF": _nearest(model),
        POINTS: _fixed(model, catalogue.quality),
        POINTS_PER_PRICE: _fixed(model, per_price),
        POPULAR: _fixed(model, popularity(catalogue, cases)),
        "random": _random(model, seed),
    }
    for objective in ("ratio", "frontier"):
        wish = Wish(objective=objective)
        found[f"palates, by score, {objective}"] = by_score(model, plain, wish)
    return found


def _served(model: PalateModel, settings: ListSettings) -> Ranker:
    def rank(case: Case, count: int) -> Ints:
        shelf = recommend(model, case.tastes, Wish(count=count), settings)
        return model.catalogue.positions(pick.key for pick in shelf.picks)

    return rank


def by_score(model: PalateModel, settings: ListSettings, wish: Wish | None = None) -> Ranker:
    """By S alone, without caps, places per palate or diversity."""
    wish = wish or Wish()

    def rank(case: Case, count: int) -> Ints:
        person = profile(model, case.tastes, settings.taste)
        return top(score(model, person, wish, settings).total, count)

    return rank


def _fixed(model: PalateModel, value: Floats) -> Ranker:
    """The same order for everybody; ties in the order of the catalogue."""

    def rank(case: Case, count: int) -> Ints:
        return top(_unseen(model, case, value), count)

    return rank


def _random(model: PalateModel, seed: int) -> Ranker:
    """An order of its own for every person, the same each time."""

    def rank(case: Case, count: int) -> Ints:
        own = zlib.crc32(",".join(case.tastes.liked).encode())
        draws = np.random.default_rng([seed, own])
        return top(_unseen(model, case, draws.random(len(model.catalogue))), count)

    return rank


def _nearest(model: PalateModel) -> Ranker:
    """Cosine to the mean of the liked items' TF-IDF."""
    weights: Any = model.features.weights(model.features.documents(model.catalogue)).tocsr()

    def rank(case: Case, count: int) -> Ints:
        liked = model.catalogue.positions(case.tastes.liked)
        towards = normalize(np.asarray(weights[liked].mean(axis=0)).reshape(1, -1))
        return top(_unseen(model, case, np.asarray(weights @ towards[0])), count)

    return rank


def _unseen(model: PalateModel, case: Case, value: Floats) -> Floats:
    found = np.asarray(value, dtype=np.float64).copy()
    tastes = case.tastes
    found[model.catalogue.positions((*tastes.liked, *tastes.disliked, *tastes.tasted))] = -np.inf
    return found


def top(value: Floats, count: int) -> Ints:
    """Positions of the largest values, best first; none that is -inf."""
    count = min(count, int(np.isfinite(value).sum()))
    if not count:
        return np.zeros(0, dtype=np.int64)
    best = np.argpartition(-value, count - 1)[:count]
    return np.asarray(best[np.lexsort((best, -value[best]))], dtype=np.int64)

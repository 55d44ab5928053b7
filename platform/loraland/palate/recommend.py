"""The list for a person: wines of their palates, good for the price, unlike each other, and why.

Composes what decides: `preference` (theta), `scoring` (S of every item), `spreading` (the list),
`exploring` (the guess), `explain` (the reasons).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from loraland.palate.explain import Reason, liked_words, reason_for
from loraland.palate.exploring import Guess, guess
from loraland.palate.model import PalateModel
from loraland.palate.preference import Profile, Tastes, profile
from loraland.palate.scoring import ListSettings, Scores, Wish, check_wish, score
from loraland.palate.spreading import beyond_caps, spread


class Pick(NamedTuple):
    """One recommended item."""

    key: str
    title: str
    maker: str
    kind: str
    quality: float  # mean points
    price: float | None
    palate_id: str
    palate_name: str
    score: float  # S(w|u)
    affinity: float  # sum of theta p, plus beta cos
    value: float | None  # standardised inside its palate; None without prices
    why: Reason
    is_guess: bool  # from the exploration slot
    propensity: float  # the chance that this item was in this list, given model, person and wish


class Shelf(NamedTuple):
    """An answer."""

    picks: tuple[Pick, ...]
    profile: Profile
    model_version: str
    notes: tuple[str, ...]  # fallbacks and shortfalls, for the person


def recommend(
    model: PalateModel,
    tastes: Tastes,
    wish: Wish | None = None,
    settings: ListSettings | None = None,
) -> Shelf:
    """The best list for a person. Tasted items are never in it.

    Raises UnknownItem, and InvalidRequest for a wish that cannot be met: a count out of range, a
    budget that is no price or below everything.
    """
    wish, settings = wish or Wish(), settings or ListSettings()
    check_wish(wish)
    person = profile(model, tastes, settings.taste)
    scores = score(model, person, wish, settings)
    chosen = spread(model, scores.total, person.theta, person.preferred, wish.count, settings)
    said = liked_words(model, person)
    picks = [_pick(model, person, scores, place, wish, said) for place in chosen]
    if wish.seed is not None and settings.explore > 0 and chosen:
        found = _guess(model, person, scores, chosen, wish.seed, settings)
        last = _pick(model, person, scores, found.place, wish, said)
        picks[-1] = last._replace(is_guess=found.is_guess, propensity=found.propensity)
    notes = (*person.notes, *scores.notes, *_shortfall(len(picks), wish))
    return Shelf(tuple(picks), person, model.version, notes)


def _shortfall(had: int, wish: Wish) -> tuple[str, ...]:
    if had == 0:
        return ("nothing is left to recommend within the budget and beside what was tasted",)
    if had < wish.count:
        return (f"only {had} of {wish.count} can be had within the budget and caps",)
    return ()


def _guess(
    model: PalateModel,
    person: Profile,
    scores: Scores,
    chosen: list[int],
    seed: int,
    settings: ListSettings,
) -> Guess:
    """What the last place holds: the list's own last, or a guess outside of the others."""
    possible = np.isfinite(scores.total)
    possible[chosen[:-1]] = False
    possible[beyond_caps(model, chosen[:-1], settings)] = False
    return guess(
        model,
        scores.worth,
        possible,
        person.theta,
        person.evidence + settings.taste.prior,
        last=chosen[-1],
        chance=settings.explore,
        seed=seed,
    )


def _pick(
    model: PalateModel,
    person: Profile,
    scores: Scores,
    place: int,
    wish: Wish,
    said: Counter[str],
) -> Pick:
    catalogue, palate = model.catalogue, model.palates[int(model.palate[place])]
    price, value = float(catalogue.price[place]), float(model.values.by[wish.objective][place])
    return Pick(
        key=catalogue.keys[place],
        title=catalogue.titles[place],
        maker=catalogue.makers[place],
        kind=catalogue.kinds[place],
        quality=float(catalogue.quality[place]),
        price=price if math.isfinite(price) else None,
        palate_id=palate.id,
        palate_name=palate.name,
        score=float(scores.total[place]),
        affinity=float(scores.affinity[place]),
        value=value if math.isfinite(value) else None,
        why=reason_for(model, person, place, wish.objective, said),
        is_guess=False,
        propensity=1.0,
    )

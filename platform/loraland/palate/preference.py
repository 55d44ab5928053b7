"""What a person likes, as shares of palates, from what they liked and disliked.

theta(c) = (a_c + sum over liked p(c|w) - lambda * sum over disliked p(c|w))+, normalised, where a_c
is m times the palate's share of the catalogue. Old opinions fade. Knows no prices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from loraland.errors import InvalidRequest
from loraland.palate.catalogue import Floats, Ints
from loraland.palate.features import Vectors
from loraland.palate.model import PalateModel
from loraland.palate.words import bare_words

MOST_OPINIONS = 10_000
MOST_TEXT = 4_000  # characters of a person's own words


@dataclass(frozen=True, slots=True)
class TasteSettings:
    """How opinions become theta."""

    prior: float = 2.0  # m: how many likes the catalogue's own shares weigh
    dislike: float = 0.5  # lambda: what a dislike weighs beside a like
    half_life_days: float = 180.0
    preferred_share: float = 0.8  # of theta, that preferred palates hold together
    most_preferred: int = 3
    text_likes: float = 3.0  # how many likes a person's own words weigh


@dataclass(frozen=True, slots=True)
class Tastes:
    """What a person said."""

    liked: tuple[str, ...] = ()  # keys
    disliked: tuple[str, ...] = ()
    tasted: tuple[str, ...] = ()  # without an opinion: not recommended again, nothing else
    text: str = ""  # own words, such as 'smoky, dark plum'
    ages_days: dict[str, float] = field(default_factory=dict)  # key -> since the opinion; else 0


class Profile(NamedTuple):
    """A person as the model sees them."""

    theta: Floats  # (palates,) sums to 1
    preferred: tuple[int, ...]  # palates, the dearest first
    evidence: float  # likes and own words, after fading
    towards: Vectors | None  # (dimensions,) unit length: the mean liked place; None without any
    liked: Ints  # positions in the catalogue
    seen: Ints  # positions of all that was tasted
    said: frozenset[str]  # words of the person's own, singular
    notes: tuple[str, ...]  # fallbacks that were taken


def profile(model: PalateModel, tastes: Tastes, settings: TasteSettings | None = None) -> Profile:
    """The theta of a person.

    Without any opinion it is the catalogue's own shares, and all palates are preferred; where
    dislikes leave nothing, what was disliked least. Raises UnknownItem, and InvalidRequest for an
    item that is both liked and disliked, an age that is no number of days, or too much of it.
    """
    settings = settings or TasteSettings()
    _check(tastes)
    liked = model.catalogue.positions(tastes.liked)
    disliked = model.catalogue.positions(tastes.disliked)
    seen = np.concatenate([liked, disliked, model.catalogue.positions(tastes.tasted)])
    like_weights = _weights(tastes.liked, tastes.ages_days, settings.half_life_days)
    dislike_weights = _weights(tastes.disliked, tastes.ages_days, settings.half_life_days)
    said, said_share, notes = _own_words(model, tastes.text)
    gained = like_weights @ model.membership[liked] + settings.text_likes * said_share
    lost = settings.dislike * (dislike_weights @ model.membership[disliked])
    raw = np.maximum(settings.prior * model.share + gained - lost, 0.0)
    if raw.sum() <= 1e-9:
        notes.append("dislikes leave no palate: what was disliked least is offered")
        raw = np.exp(-lost / max(float(lost.max()), 1e-9)) * model.share
    theta = np.asarray(raw / raw.sum(), dtype=np.float64)
    evidence = float(like_weights.sum()) + (settings.text_likes if said is not None else 0.0)
    if evidence == 0:
        notes.append("nothing is liked yet: the best value of every palate is offered")
        preferred = tuple(int(c) for c in np.argsort(-theta, kind="stable") if theta[c] > 0)
    else:
        preferred = preferred_of(theta, settings.preferred_share, settings.most_preferred)
    towards = _towards(model, liked, like_weights, said, settings.text_likes)
    words = frozenset(bare_words(tastes.text))
    return Profile(theta, preferred, evidence, towards, liked, np.unique(seen), words, tuple(notes))


def preferred_of(theta: Floats, share: float, most: int) -> tuple[int, ...]:
    """The fewest palates that hold `share` of theta together, at most so many."""
    order = np.argsort(-theta, kind="stable")
    enough = int(np.searchsorted(np.cumsum(theta[order]), share - 1e-12)) + 1
    return tuple(int(c) for c in order[: min(enough, most)])


def _own_words(model: PalateModel, text: str) -> tuple[Vectors | None, Floats, list[str]]:
    """The place and palates of a person's own words; zeros where none is known."""
    nothing = np.zeros(len(model.palates))
    if not text.strip():
        return None, nothing, []
    place = model.features.place_text(text)
    if not place.any():
        return None, nothing, [f"no word of '{text[:60]}' tells a flavour here"]
    return place, model.memberships(place[None, :])[0], []


def _towards(
    model: PalateModel, liked: Ints, weights: Floats, said: Vectors | None, text_likes: float
) -> Vectors | None:
    total = weights @ model.places[liked]
    if said is not None:
        total = total + text_likes * said
    length = float(np.linalg.norm(total))
    return np.asarray(total / length, dtype=np.float32) if length > 1e-9 else None


def _weights(keys: tuple[str, ...], ages: dict[str, float], half_life: float) -> Floats:
    return np.asarray([0.5 ** (ages.get(key, 0.0) / half_life) for key in keys], dtype=np.float64)


def _check(tastes: Tastes) -> None:
    if both := set(tastes.liked) & set(tastes.disliked):
        raise InvalidRequest(f"'{min(both)}' is both liked and disliked; say one")
    if len(tastes.liked) + len(tastes.disliked) + len(tastes.tasted) > MOST_OPINIONS:
        raise InvalidRequest(f"more than {MOST_OPINIONS} opinions; give the newest")
    if len(tastes.text) > MOST_TEXT:
        raise InvalidRequest(f"own words of {len(tastes.text)} characters; at most {MOST_TEXT}")
    wrong = [key for key, age in tastes.ages_days.items() if not 0 <= age < math.inf]
    if wrong:
        raise InvalidRequest(f"the age of '{wrong[0][:40]}' is no number of days from 0 on")

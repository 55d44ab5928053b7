"""Whom a recommender is judged on: histories, and the items that would have been right.

Reviews know no users. Of real ones, bundles stand in: what one taster said of one variety of one
country; liked is what the taster scored in their own upper quarter, and five liked wines are held
out. Made-up people have true palates, and all that they would like is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loraland.errors import DataRefused
from loraland.palate.catalogue import Catalogue, Floats, Ints
from loraland.palate.cleaning import wine_key
from loraland.palate.generator import Person, World, generate, people
from loraland.palate.model import PalateModel
from loraland.palate.preference import Tastes

HELD_OUT = 5
LEAST_LIKED = 10  # of a bundle: five to tell, five to find
MOST_TOLD = 30  # likes of a history
TOLD_DISLIKES = 5
LIKED_QUANTILE, DISLIKED_QUANTILE = 0.75, 0.25


class Case(NamedTuple):
    """One person to recommend to."""

    tastes: Tastes
    relevant: frozenset[int]  # positions, none of them in the history
    unit: str  # cases of one unit vary together: the taster, or the person


def bundles(catalogue: Catalogue, seed: int = 0) -> list[Case]:
    """Pseudo-users of a real catalogue: taster x variety x country, in a fixed order.

    Quantiles are the taster's own over all their wines, because tasters differ in how high they
    score. Which liked wines are held out is drawn: the files have no dates. Raises DataRefused
    where no taster has enough.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, critic in enumerate(catalogue.critics):
        if critic:
            country = catalogue.places[place].split(",")[0]
            groups.setdefault((critic, catalogue.kinds[place], country), []).append(place)
    limits = _limits(catalogue)
    found = []
    for number, ((critic, _, _), members) in enumerate(sorted(groups.items())):
        draws = np.random.default_rng([seed, number])
        low, high = limits[critic]
        points = catalogue.quality[members]
        liked = draws.permutation(np.asarray(members)[points >= high])
        if len(liked) < LEAST_LIKED:
            continue
        disliked = draws.permutation(np.asarray(members)[points <= low])[:TOLD_DISLIKES]
        told = liked[HELD_OUT : HELD_OUT + MOST_TOLD]
        # Likes beyond those told and held out count as tasted: no list may be wrong by them.
        rest = liked[HELD_OUT + MOST_TOLD :]
        told_keys, disliked_keys, rest_keys = (
            tuple(catalogue.keys[i] for i in group) for group in (told, disliked, rest)
        )
        tastes = Tastes(told_keys, disliked_keys, rest_keys)
        found.append(Case(tastes, frozenset(liked[:HELD_OUT].tolist()), critic))
    if not found:
        raise DataRefused(
            f"no taster has {LEAST_LIKED} liked wines of one variety and country, so nobody can "
            "be asked; the reviews need taster_name (the v2 file has it) and some thousand rows"
        )
    return found


def of_people(catalogue: Catalogue, people: Sequence[Person]) -> list[Case]:
    """Cases of made-up people; who would like nothing more is left out."""
    found = []
    for number, person in enumerate(people):
        liked = tuple(k for k, yes in zip(person.tasted, person.liked, strict=True) if yes)
        disliked = tuple(k for k, yes in zip(person.tasted, person.liked, strict=True) if not yes)
        relevant = frozenset(catalogue.positions(sorted(person.would_like)).tolist())
        if relevant:
            found.append(Case(Tastes(liked, disliked), relevant, str(number)))
    return found


def cases_of(model: PalateModel, people_asked: int = 200) -> tuple[list[Case], str]:
    """The cases that a model's source allows, and in words who they are.

    Of a made-up catalogue its made-up people, of any other its tasters' bundles. Raises DataRefused
    as `bundles` does.
    """
    source = model.facts.get("source", {})
    if source.get("kind") != "generator":
        cases = bundles(model.catalogue)
        tasters = len({case.unit for case in cases})
        return cases, (
            f"{len(cases)} pseudo-users (taster x variety x country) of {tasters} tasters; "
            f"{HELD_OUT} liked wines of each held out"
        )
    world = generate(source["rows"], source["palates"], source["seed"])
    planted = planted_of(world, model.catalogue)
    found = people(
        *(model.catalogue.keys, planted, model.catalogue.quality, source["palates"]),
        count=people_asked,
        seed=source["seed"],
    )
    return of_people(model.catalogue, found), f"{len(found)} made-up people with true palates"


def planted_of(world: World, catalogue: Catalogue) -> Ints:
    """(items,) the planted palate of each item of a made-up catalogue."""
    rows = zip(world.reviews.to_pylist(), world.palate_of_row.tolist(), strict=True)
    of_key = {wine_key(row): palate for row, palate in rows}
    return np.asarray([of_key[key] for key in catalogue.keys], dtype=np.int64)


def popularity(catalogue: Catalogue, cases: Sequence[Case]) -> Floats:
    """(items,) reviews, and how many of the cases' histories like an item."""
    likes: Ints = np.zeros(len(catalogue), dtype=np.int64)
    for case in cases:
        likes[catalogue.positions(case.tastes.liked)] += 1
    return np.asarray(catalogue.reviews + likes, dtype=np.float64)


def _limits(catalogue: Catalogue) -> dict[str, tuple[float, float]]:
    """Taster -> their lower and upper quartile of points."""
    critics = np.asarray(catalogue.critics)
    found = {}
    for critic in dict.fromkeys(catalogue.critics):
        points = catalogue.quality[critics == critic]
        low, high = np.quantile(points, [DISLIKED_QUANTILE, LIKED_QUANTILE])
        found[critic] = (float(low), float(high))
    return found

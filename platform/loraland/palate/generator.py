"""Reviews made up from planted palates, in the published layout, with the truth beside.

Each wine has one true palate, which chooses most aroma words of its description; its variety leads
to a palate without deciding it, its price and an unseen quality give its points. People have true
palates too, and like what fits those and is good; all of it follows from the seed. Not like real
prose: words are independent given the palate, so real reviews are harder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loraland.errors import InvalidConfiguration
from loraland.palate.catalogue import Floats, Ints
from loraland.palate.reviews import SCHEMA
from loraland.palate.words import lexicon

ROWS, PALATES, SEED = 5_000, 12, 0  # of what stands in where nobody named a file
WORDS_OF_A_PALATE = 18  # aroma words that are likelier in it than elsewhere
NOISE = 0.25  # share of aroma words that come from anywhere
VARIETIES_PER_PALATE = 3
OFF_VARIETY = 0.35  # share of wines whose variety leads to another palate
SECOND_REVIEWS = 0.15  # share of reviews that are of a wine reviewed before
WITHOUT_PRICE = 0.07  # as in the published files
TASTERS = 19
MOST_PALATES = 40

_SYLLABLES = "bel cas do fen gra lor mar nel or pal quin ros sal tor ul ven wes yar zan mir"
_COUNTRIES = ("Aurelia", "Borealis", "Calabrine", "Dorvania", "Estaria", "Fenmark")
_FRAMES = (
    "Aromas of {0}, {1} and {2} lead to a palate of {3} and {4}, with {5} on the finish.",
    "This {v} opens with {0} and {1}. Flavors of {2}, {3} and {4} end in a note of {5}.",
    "{0} and {1} show on the nose of this wine; the palate offers {2}, {3}, {4} and {5}.",
    "From {w}, a bottling that brings {0}, {1} and {2} together with {3}, {4} and a hint of {5}.",
)
_TAILS = (
    "It is balanced and ready to drink.",
    "The structure is firm, the finish long.",
    "Drink it young.",
    "A fresh wine with good length.",
    "It needs some years in the cellar.",
)


class Person(NamedTuple):
    """Somebody made up: what was tasted and liked, and what would be."""

    palates: Floats  # (palates,) true share of each, mostly one to three
    tasted: tuple[str, ...]  # keys of wines
    liked: tuple[bool, ...]  # of each tasted
    would_like: frozenset[str]  # keys of all untasted wines that this person would like


@dataclass(frozen=True)
class World:
    """Reviews with their truth."""

    reviews: pa.Table  # of reviews.SCHEMA
    palate_of_row: Ints  # (rows,) the planted palate
    palate_words: tuple[tuple[str, ...], ...]  # of each palate, its likely words
    seed: int


def generate(rows: int = ROWS, palates: int = PALATES, seed: int = SEED) -> World:
    """Reviews of planted palates. Raises InvalidConfiguration for numbers that cannot be had."""
    if not 2 <= palates <= MOST_PALATES or rows < palates:
        raise InvalidConfiguration(
            f"{rows} reviews of {palates} palates: 2 to {MOST_PALATES} palates, a review of each"
        )
    draws = np.random.default_rng(seed)
    words = _palate_words(palates, draws)
    wine = _wine_of_row(rows, draws)
    wines = int(wine.max()) + 1
    palate = draws.choice(palates, wines, p=draws.dirichlet(np.full(palates, 8.0)))
    palate[:palates] = np.arange(palates)  # none is empty
    variety = _varieties(palate, palates, draws)
    merit = draws.normal(size=wines)
    dear = draws.normal(size=palates)[palate] * 0.3  # some palates cost more
    price = np.clip(np.exp(3.2 + dear + draws.normal(0, 0.6, wines)), 4, 3300).round()
    taster = draws.integers(TASTERS, size=rows)
    bias = draws.normal(0, 0.7, TASTERS)[taster]
    points = 88 + 1.6 * (np.log(price) - 3.2)[wine] + 1.6 * merit[wine]
    points = np.clip(np.rint(points + bias + draws.normal(0, 0.7, rows)), 80, 100)
    price[draws.random(wines) < WITHOUT_PRICE] = np.nan
    names = _names(wines, draws)
    columns = names.columns(wine, variety)
    columns |= {
        "description": _descriptions(palate[wine], words, columns, draws),
        "points": points,
        "price": pa.array(price[wine], from_pandas=True),  # NaN is null
        "taster_name": np.char.add("Taster ", taster.astype(str)).tolist(),
    }
    table = pa.table([columns.get(name, pa.nulls(rows)) for name in SCHEMA.names], SCHEMA.names)
    return World(table.cast(SCHEMA), palate[wine], words, seed)


def source_of(rows: int, palates: int, seed: int) -> dict[str, str | int]:
    """How a model's facts name a made-up catalogue; `cases.cases_of` makes it again from that."""
    return {"kind": "generator", "rows": rows, "palates": palates, "seed": seed}


def people(
    keys: Sequence[str],
    true_palate: Ints,
    quality: Floats,
    palates: int,
    *,
    count: int = 200,
    tasted: int = 25,
    seed: int = 0,
) -> list[Person]:
    """People who like wines of their palates that are good.

    The chance to like a wine is a logistic function of the person's share of its palate and of its
    standardised quality, the price no part of it. Somebody tastes half of the wines in palates of
    their own and half anywhere; who likes fewer than three or all is drawn again.
    """
    draws = np.random.default_rng([seed, 1])
    merit = (quality - quality.mean()) / max(float(quality.std()), 1e-9)
    found: list[Person] = []
    names = np.asarray(keys)
    for _ in range(50 * count):
        if len(found) == count:
            break
        share = _shares(palates, draws)
        fit = share[true_palate] / share.max()
        chance = 1 / (1 + np.exp(-(6.0 * fit + 0.7 * merit - 4.2)))
        likes = draws.random(len(keys)) < chance
        weights = 0.5 / len(keys) + 0.5 * fit / fit.sum()
        seen = draws.choice(len(keys), min(tasted, len(keys) // 2), False, weights / weights.sum())
        if not 3 <= likes[seen].sum() < len(seen):
            continue
        rest = likes.copy()
        rest[seen] = False
        answers = tuple(bool(answer) for answer in likes[seen])
        wanted = frozenset(names[rest].tolist())
        found.append(Person(share, tuple(names[seen].tolist()), answers, wanted))
    return found


def _shares(palates: int, draws: np.random.Generator) -> Floats:
    """One to three palates, the first the dearest."""
    own = draws.choice(palates, size=min(int(draws.integers(1, 4)), palates), replace=False)
    share = np.full(palates, 0.02)
    share[own] = np.asarray([1.0, 0.8, 0.6])[: len(own)]
    return np.asarray(share / share.sum())


def _palate_words(palates: int, draws: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    """Sets of words of the lexicon; two palates may share some."""
    vocabulary = np.asarray(sorted(lexicon()))
    return tuple(
        tuple(draws.choice(vocabulary, WORDS_OF_A_PALATE, replace=False).tolist())
        for _ in range(palates)
    )


def _wine_of_row(rows: int, draws: np.random.Generator) -> Ints:
    """The wine of each review; numbers from 0 in order of their first review."""
    again = draws.random(rows) < SECOND_REVIEWS
    again[0] = False
    wine = np.cumsum(~again) - 1
    places = np.flatnonzero(again)
    wine[places] = (draws.random(len(places)) * (wine[places] + 1)).astype(np.int64)
    return np.asarray(wine, dtype=np.int64)


def _varieties(palate: Ints, palates: int, draws: np.random.Generator) -> Ints:
    """Of each wine; every palate has some varieties, which also make wines of other palates."""
    home = np.where(
        draws.random(len(palate)) < OFF_VARIETY, draws.integers(palates, size=len(palate)), palate
    )
    return np.asarray(
        home * VARIETIES_PER_PALATE + draws.integers(VARIETIES_PER_PALATE, size=len(palate))
    )


class _Names(NamedTuple):
    """Names of each wine: its winery, designation, vintage, country and region as numbers."""

    winery: Ints
    designation: Ints
    year: Ints
    region: Ints

    def columns(self, wine: Ints, variety: Ints) -> dict[str, list[str]]:
        """The text columns of reviews of these wines."""
        wineries = [f"{_name(i)} Cellars" for i in range(int(self.winery.max()) + 1)]
        grapes = [f"{_name(i + 7)}o" for i in range(int(variety.max()) + 1)]
        found: dict[str, list[str]] = {
            name: []
            for name in (
                "winery",
                "variety",
                "designation",
                "country",
                "province",
                "region_1",
                "title",
            )
        }
        for w in wine.tolist():
            winery, grape = wineries[self.winery[w]], grapes[variety[w]]
            designation, region = f"Lot {self.designation[w]}", int(self.region[w])
            place = f"{_name(region + 3)} Valley"
            found["winery"].append(winery)
            found["variety"].append(grape)
            found["designation"].append(designation)
            found["country"].append(_COUNTRIES[region % len(_COUNTRIES)])
            found["province"].append(f"{_name(region // 4 + 5)} Coast")
            found["region_1"].append(place)
            found["title"].append(f"{winery} {self.year[w]} {designation} {grape} ({place})")
        return found


def _names(wines: int, draws: np.random.Generator) -> _Names:
    wineries = max(2, wines // 7)
    return _Names(
        draws.integers(wineries, size=wines),
        np.arange(wines),  # no two wines have one key
        draws.integers(1996, 2017, size=wines),
        draws.integers(40, size=wines),
    )


def _name(number: int) -> str:
    """A pronounceable name; different numbers give different names."""
    syllables = _SYLLABLES.split()
    base, parts = len(syllables), []
    number += base  # two syllables at least
    while number:
        number, rest = divmod(number, base)
        parts.append(syllables[rest])
    return "".join(parts).capitalize()


def _descriptions(
    palate: Ints,
    words: tuple[tuple[str, ...], ...],
    columns: dict[str, list[str]],
    draws: np.random.Generator,
) -> list[str]:
    rows, each = len(palate), 6
    vocabulary = np.asarray(sorted(lexicon()))
    table = np.asarray(words)  # (palates, words)
    # The first words of a palate are its likeliest: 1 / (rank + 2).
    weights = 1 / (np.arange(table.shape[1]) + 2)
    ranks = draws.choice(table.shape[1], (rows, each), p=weights / weights.sum())
    chosen = table[palate[:, None], ranks]
    stray = draws.random((rows, each)) < NOISE
    chosen[stray] = vocabulary[draws.integers(len(vocabulary), size=int(stray.sum()))]
    frames: NDArray[np.int64] = draws.integers(len(_FRAMES), size=rows)
    tails: NDArray[np.int64] = draws.integers(len(_TAILS), size=rows)
    return [
        _FRAMES[frame].format(*drawn, v=grape, w=winery) + " " + _TAILS[tail]
        for frame, tail, drawn, grape, winery in zip(
            frames, tails, chosen.tolist(), columns["variety"], columns["winery"], strict=True
        )
    ]

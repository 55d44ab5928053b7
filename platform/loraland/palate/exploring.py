"""The exploration slot: with a small chance, what a person drawn from what is believed would like.

Thompson's rule (1933) over a Dirichlet whose mean is theta; the chance that an item was shown is
told with it, so that clicks can be judged later without bias.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loraland.palate.catalogue import Floats, Ints
from loraland.palate.model import PalateModel

PER_PALATE = 10  # items that a guess may be, of each palate: the best item of a draw is among them
DRAWS = 256  # persons drawn; a propensity is a multiple of chance / DRAWS
LEAST = 1e-3  # a Dirichlet needs something of everything


class Guess(NamedTuple):
    """What the slot holds."""

    place: int  # position in the catalogue
    is_guess: bool  # whether the draw put it there rather than the list itself
    propensity: float  # chance that this item stands in the slot, either way


def guess(
    model: PalateModel,
    worth: Floats,
    possible: NDArray[np.bool_],
    theta: Floats,
    strength: float,
    *,
    last: int,
    chance: float,
    seed: int,
) -> Guess:
    """With `chance` the best item of a drawn person, else `last`. Follows from the seed.

    `possible` (items,) says what may stand there, `last` among it; `strength` is how many opinions
    theta rests on. Propensities are counted over the drawn persons, the first of whom is asked.
    """
    draws = np.random.default_rng(seed)
    explores = bool(draws.random() < chance)
    alpha = np.maximum(theta * max(strength, 1.0), LEAST)
    persons = draws.dirichlet(alpha, size=DRAWS).astype(np.float32)
    pool = _best_of_palates(model, worth, possible)
    best = pool[((persons @ model.membership[pool].T) * worth[pool]).argmax(axis=1)]
    place = int(best[0]) if explores else last
    propensity = chance * float(np.mean(best == place)) + (1 - chance) * float(place == last)
    return Guess(place, explores and place != last, propensity)


def _best_of_palates(model: PalateModel, worth: Floats, possible: NDArray[np.bool_]) -> Ints:
    found = []
    for palate, members in enumerate(model.members):
        places = members[possible[members]]
        if len(places) > PER_PALATE:
            value = model.membership[places, palate] * worth[places]
            places = places[np.argpartition(-value, PER_PALATE - 1)[:PER_PALATE]]
        found.append(places)
    return np.concatenate(found)

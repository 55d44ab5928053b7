"""S(w|u) of every item for one person and wish, and what a wish may be.

S(w|u) = (sum of theta(c) p(c|w) + beta cos(w, liked)) * sigmoid(value of w). A budget cuts or
fades. Knows nothing of lists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from loraland.errors import InvalidRequest
from loraland.palate.catalogue import Floats
from loraland.palate.model import PalateModel
from loraland.palate.preference import Profile, TasteSettings
from loraland.palate.pricing import OBJECTIVES, Objective

MOST_ITEMS = 100  # of a list
FADE = 0.3  # a price e^0.3 = 1.35 times a soft budget counts 1/e


@dataclass(frozen=True, slots=True)
class ListSettings:
    """How items are scored and a list is put together."""

    beta: float = 1.0  # weight of the nearness to what was liked, beside the palates
    use_value: bool = True  # whether the price counts at all
    diversity: float = 0.7  # lambda of MMR: 1 is by score alone
    per_maker: int = 2
    per_kind: int = 3
    quota: bool = True  # places by theta of the preferred palates
    explore: float = 0.15  # chance that the last place is a guess; needs a seed
    taste: TasteSettings = field(default_factory=TasteSettings)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for."""

    count: int = 10
    budget: float | None = None  # most that an item may cost
    budget_kind: Literal["hard", "soft"] = "hard"  # soft: dearer ones fade
    objective: Objective = "residual"
    seed: int | None = None  # of the exploration; None: no guesses, the same list every time


@dataclass(frozen=True, slots=True)
class Scores:
    """Of all items, for one person and wish."""

    total: Floats  # (items,) S; -inf for what may not be recommended
    affinity: Floats  # (items,) sum of theta p, plus beta cos
    worth: Floats  # (items,) sigmoid of value, times the fading of a soft budget; 0 without a price
    notes: tuple[str, ...]


def check_wish(wish: Wish) -> None:
    """Raises InvalidRequest that says what is possible."""
    if not 1 <= wish.count <= MOST_ITEMS:
        raise InvalidRequest(f"a list of {wish.count}; 1 to {MOST_ITEMS} can be had")
    if wish.budget is not None and not 0 < wish.budget < math.inf:
        raise InvalidRequest(f"a budget of {wish.budget:g} is no price; give one above 0, or none")
    if wish.objective not in OBJECTIVES:
        raise InvalidRequest(f"objective '{wish.objective}'; possible: {', '.join(OBJECTIVES)}")
    if wish.budget_kind not in ("hard", "soft"):
        raise InvalidRequest(f"budget_kind '{wish.budget_kind}'; possible: hard, soft")


def score(model: PalateModel, person: Profile, wish: Wish, settings: ListSettings) -> Scores:
    """S of every item that was not tasted and has a price, where any has one.

    Raises InvalidRequest for a budget below everything.
    """
    affinity = model.membership @ person.theta.astype(np.float32)
    if person.towards is not None and settings.beta:
        affinity = affinity + settings.beta * np.maximum(model.places @ person.towards, 0)
    allowed = np.ones(len(affinity), dtype=bool)
    notes: tuple[str, ...] = ()
    if model.catalogue.has_price.any():
        allowed &= model.catalogue.has_price
        worth = model.worth[wish.objective] if settings.use_value else np.ones(len(affinity))
        if wish.budget is not None and wish.budget_kind == "hard":
            allowed &= _affordable(model, wish.budget)
        elif wish.budget is not None:
            worth = worth * _fading(model.catalogue.price, wish.budget)
    else:
        worth = expit(model.values.merit) if settings.use_value else np.ones(len(affinity))
        notes = ("no item has a price: quality counts alone, and no budget can",)
    allowed[person.seen] = False
    total = np.where(allowed, affinity * worth, -np.inf)
    return Scores(total, np.asarray(affinity, np.float64), np.nan_to_num(worth), notes)


def _affordable(model: PalateModel, budget: float) -> NDArray[np.bool_]:
    prices = model.catalogue.price
    found = np.less_equal(
        prices, budget, where=model.catalogue.has_price, out=np.zeros(len(prices), bool)
    )
    if not found.any():
        cheapest = float(np.nanmin(prices))
        raise InvalidRequest(f"nothing costs {budget:g} or less; the cheapest costs {cheapest:g}")
    return found


def _fading(prices: Floats, budget: float) -> Floats:
    """(items,) 1 within the budget, less beyond it; NaN without a price."""
    return np.asarray(np.exp(-np.maximum(np.log(prices / budget), 0) / FADE))

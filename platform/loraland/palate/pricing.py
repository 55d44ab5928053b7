"""Quality for the price: how good an item is beside what its palate usually gives for that money.

Three objectives, all standardised so that they mix alike: `ratio`, `residual` (default) and
`frontier`. Told quality, price and palates as numbers; knows no texts and no people.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from loraland.palate.catalogue import Floats, Ints

Objective = Literal["ratio", "residual", "frontier"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

LEAST_FOR_A_CURVE = 30  # priced items; a palate with fewer takes the curve of all
KNOTS = 64  # at most, of a stored curve


@dataclass(frozen=True, slots=True)
class PricingSettings:
    """How quality and price are weighed."""

    floor: float = 79.0  # quality that is worth nothing; points span 80 to 100
    gamma: float = 0.7  # of `ratio`: (quality - floor) / price ** gamma
    prior_reviews: float = 3.0  # k0: an item's mean is drawn to its palate's by so many reviews


@dataclass(frozen=True)
class Curves:
    """Of each palate, the quality usual at a price, and the price usual at a quality."""

    quality_at: Floats  # (palates, KNOTS) at `log_prices`
    log_prices: Floats  # (KNOTS,) ascending
    log_price_at: Floats  # (palates, KNOTS) at `qualities`
    qualities: Floats  # (KNOTS,) ascending
    spread: Floats  # (palates,) residual standard deviation

    def usual_quality(self, palate: Ints, price: Floats) -> Floats:
        """(items,) of items in these palates at these prices; NaN for an unknown price."""
        return _along(self.log_prices, self.quality_at, palate, np.log(price))

    def usual_price(self, palate: int, quality: float) -> float:
        """What an item of that quality usually costs in a palate."""
        return float(np.exp(np.interp(quality, self.qualities, self.log_price_at[palate])))


@dataclass(frozen=True)
class Values:
    """What each item gives for its price. NaN without one."""

    by: dict[str, Floats]  # objective -> (items,), about 0 on average, 1 apart, inside its palate
    percentile: dict[str, Floats]  # objective -> (items,) 0..100 inside its palate
    merit: Floats  # (items,) shrunk quality, standardised inside its palate; never NaN


def shrink(quality: Floats, reviews: Ints, palate: Ints, palates: int, k0: float) -> Floats:
    """(n q + k0 q_c) / (n + k0): most wines have one review, which says little by itself."""
    sums = np.bincount(palate, weights=quality * reviews, minlength=palates)
    counts = np.bincount(palate, weights=reviews, minlength=palates)
    means = sums / np.maximum(counts, 1)
    return np.asarray((reviews * quality + k0 * means[palate]) / (reviews + k0))


def learn_curves(quality: Floats, price: Floats, palate: Ints, palates: int) -> Curves:
    """Isotonic regressions of quality on log price, and the other way around, in each palate.

    Without any price the curves are flat at the mean quality and at a price of 1.
    """
    known = np.isfinite(price)
    if not known.any():
        flat = np.full((palates, KNOTS), float(quality.mean()))
        knots = np.linspace(0, 1, KNOTS)
        zero = np.zeros((palates, KNOTS))
        return Curves(flat, knots, zero, knots, np.full(palates, max(quality.std(), 1e-6)))
    logs = np.log(price[known])
    prices = np.linspace(logs.min(), logs.max() + 1e-9, KNOTS)
    qualities = np.linspace(quality.min(), quality.max() + 1e-9, KNOTS)
    at_price, at_quality, spreads = [], [], []
    for one in range(palates):
        chosen = known & (palate == one)
        if chosen.sum() < LEAST_FOR_A_CURVE:
            chosen = known
        x, y = np.log(price[chosen]), quality[chosen]
        at_price.append(_isotonic(x, y, prices))
        at_quality.append(_isotonic(y, x, qualities))
        rest = y - np.interp(x, prices, at_price[-1])
        spreads.append(max(float(rest.std()), 1e-6))
    return Curves(
        np.asarray(at_price), prices, np.asarray(at_quality), qualities, np.asarray(spreads)
    )


def values(
    quality: Floats, price: Floats, palate: Ints, curves: Curves, settings: PricingSettings
) -> Values:
    """All three objectives of all items; `quality` is already shrunk."""
    palates = len(curves.spread)
    residual = (quality - curves.usual_quality(palate, price)) / curves.spread[palate]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(np.maximum(quality - settings.floor, 0.1)) - settings.gamma * np.log(price)
    layers = np.full(len(quality), np.nan)
    for one in range(palates):
        places = np.flatnonzero((palate == one) & np.isfinite(price))
        # A layer further back costs more than any residual gives back.
        fronts = pareto_layers(quality[places], price[places]).astype(np.float64)
        layers[places] = -fronts + 0.5 * np.tanh(residual[places])
    raw: dict[str, Floats] = {"ratio": ratio, "residual": residual, "frontier": layers}
    by = {
        name: found if name == "residual" else _standardised(found, palate, palates)
        for name, found in raw.items()
    }
    ranks = {name: _percentiles(found, palate, palates) for name, found in by.items()}
    return Values(by, ranks, _standardised(quality, palate, palates))


def pareto_layers(quality: Floats, price: Floats) -> Ints:
    """(items,) 0 on the frontier (nothing is as good for less), 1 on what is left, and so on.

    Non-dominated sorting of two goals by Jensen (2003), IEEE Trans. Evol. Comput. 7: each layer is
    known by its best quality so far, while prices rise. Equal items share a layer.
    """
    order = np.lexsort((-quality, price))
    found = np.zeros(len(quality), dtype=np.int64)
    best: list[float] = []  # of each layer, minus its best quality so far; ascending
    last: tuple[float, float, int] | None = None
    for place in order.tolist():
        mine, cost = float(quality[place]), float(price[place])
        if last is not None and last[:2] == (mine, cost):
            found[place] = last[2]
            continue
        layer = bisect_right(best, -mine)  # the first whose best is below mine
        best[layer : layer + 1] = [-mine]
        found[place] = layer
        last = (mine, cost, layer)
    return found


def _isotonic(x: Floats, y: Floats, knots: Floats) -> Floats:
    model = IsotonicRegression(increasing=True, out_of_bounds="clip").fit(x, y)
    return np.asarray(model.predict(knots), dtype=np.float64)


def _along(knots: Floats, curves: Floats, palate: Ints, x: Floats) -> Floats:
    """Linear interpolation of x (items,) on evenly spaced knots, each item on its own curve."""
    step = (knots[-1] - knots[0]) / (len(knots) - 1)
    known = np.isfinite(x)
    scaled = np.clip((np.where(known, x, knots[0]) - knots[0]) / step, 0, len(knots) - 1.000001)
    low = scaled.astype(np.int64)
    part = scaled - low
    found = (1 - part) * curves[palate, low] + part * curves[palate, low + 1]
    return np.where(known, found, np.nan)


def _standardised(raw: Floats, palate: Ints, palates: int) -> Floats:
    """Zero mean and unit deviation inside each palate, over what is known."""
    found = np.full(len(raw), np.nan)
    for one in range(palates):
        places = np.flatnonzero((palate == one) & np.isfinite(raw))
        if len(places):
            inside = raw[places]
            found[places] = (inside - inside.mean()) / max(float(inside.std()), 1e-6)
    return found


def _percentiles(value: Floats, palate: Ints, palates: int) -> Floats:
    """Share of the palate's priced items that give no more, 0..100."""
    found: NDArray[np.float64] = np.full(len(value), np.nan)
    for one in range(palates):
        places = np.flatnonzero((palate == one) & np.isfinite(value))
        ordered = np.sort(value[places])
        share = np.searchsorted(ordered, value[places], side="right") / max(len(places), 1)
        found[places] = 100 * share
    return found

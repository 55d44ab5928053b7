"""Intervals for means and for paired differences. Pure numbers; knows no tasks and no models.

A mean of zeros and ones gets Wilson's interval, a paired difference of those Newcombe's, anything
else a bootstrap. Items that share a context get a cluster-robust interval instead. What is random
is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9_999
CHUNK = 250_000  # random numbers at a time: 2 MB of them stay in a processor's cache

Values = NDArray[np.float64]
Units = Sequence[Hashable]  # one per score; scores of one unit share a context and vary together


class Interval(NamedTuple):
    """An estimate with its two-sided confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    scores: Sequence[float], confidence: float = CONFIDENCE, units: Units | None = None
) -> Interval:
    """The mean of scores. `units` says which of them share a context; None: none do.

    Raises ValueError when there are none, or not as many units.
    """
    values = _checked(scores)
    if (shared := shared_units(values, units)) is not None:
        if is_binary(values):
            return _clustered_wilson(values, shared, confidence)
        return pooled_interval([(values, shared)], confidence, 0.0, 1.0)
    if is_binary(values):
        found = stats.binomtest(int(values.sum()), len(values)).proportion_ci(confidence, "wilson")
        return Interval(float(values.mean()), float(found.low), float(found.high))
    return _bootstrap(values, confidence, 0.0, 1.0)


def paired_interval(
    ours: Sequence[float],
    theirs: Sequence[float],
    confidence: float = CONFIDENCE,
    units: Units | None = None,
) -> Interval:
    """The mean of ours - theirs over the same items.

    Raises ValueError when there are none or the lengths differ.
    """
    first, second = checked_pair(ours, theirs)
    if (shared := shared_units(first, units)) is not None:
        return pooled_interval([(first - second, shared)], confidence)
    if is_binary(first) and is_binary(second):
        return _newcombe(first, second, confidence)
    return _bootstrap(first - second, confidence, -1.0, 1.0)


def pooled_interval(
    groups: Sequence[tuple[Values, Units]],
    confidence: float = CONFIDENCE,
    least: float = -1.0,
    most: float = 1.0,
) -> Interval:
    """The mean of the groups' means, each group the values of one cell with their units.

    Cluster-robust (Liang and Zeger 1986, Biometrika 73; for evaluations Miller 2024, arXiv
    2411.00640): a unit that occurs in several groups, such as an item that adapters of several
    bases answered, counts once. It speaks of other items, not of other groups. Where nothing
    varies, the rule of three over the units. Raises ValueError without groups or values.
    """
    if not groups:
        raise ValueError("no groups to average")
    mean = float(np.mean([_not_empty(values).mean() for values, _ in groups]))
    sums: dict[Hashable, float] = {}
    for values, units in groups:
        known = len(set(units))
        if known < 2:
            return Interval(mean, least, most)  # one unit says nothing of how units vary
        scale = math.sqrt(known / (known - 1)) / (len(values) * len(groups))
        for unit, part in zip(units, (values - values.mean()) * scale, strict=True):
            sums[unit] = sums.get(unit, 0.0) + float(part)
    error = math.sqrt(math.fsum(part * part for part in sums.values()))
    if error < 1e-12:
        return _rule_of_three(mean, len(sums), confidence, least, most)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(sums) - 1)) * error
    return Interval(mean, max(least, mean - reach), min(most, mean + reach))


def effective_items(values: Values, units: Units | None) -> float:
    """How many independent items would tell the mean as precisely as these.

    Their number over the design effect, which is taken as at least 1 (Kish 1965).
    """
    most, shared = float(len(values)), shared_units(values, units)
    if shared is None:
        return most
    sums = unit_sums(values - values.mean(), shared)
    if len(sums) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return float(len(sums))
    squared_error = len(sums) / (len(sums) - 1) * float(np.sum(sums**2)) / most**2
    return min(most, float(values.var(ddof=1)) / max(squared_error, 1e-12))


def _clustered_wilson(values: Values, units: Units, confidence: float) -> Interval:
    """Wilson's interval at the effective number of items (Korn and Graubard 1998).

    Student's t at the number of units less one stands in for the normal.
    """
    mean, n, known = float(values.mean()), effective_items(values, units), len(set(units))
    if known < 2:
        return Interval(mean, 0.0, 1.0)
    c2 = float(stats.t.ppf((1 + confidence) / 2, known - 1)) ** 2
    middle = (mean + c2 / (2 * n)) / (1 + c2 / n)
    reach = math.sqrt(c2 * mean * (1 - mean) / n + (c2 / (2 * n)) ** 2) / (1 + c2 / n)
    return Interval(mean, max(0.0, min(mean, middle - reach)), min(1.0, max(mean, middle + reach)))


def _newcombe(first: Values, second: Values, confidence: float) -> Interval:
    """The difference of paired proportions: Newcombe (1998), Statistics in Medicine 17, method 10.

    The Wilson limits of both proportions are combined with the correlation phi of the pairs,
    corrected for continuity when it is positive.
    """
    n = len(first)
    p1, low1, high1 = mean_interval(first.tolist(), confidence)
    p2, low2, high2 = mean_interval(second.tolist(), confidence)
    both = float(np.sum((first == 1) & (second == 1)))
    only1, only2 = float(first.sum()) - both, float(second.sum()) - both
    neither = n - both - only1 - only2
    margins = (both + only1) * (only2 + neither) * (both + only2) * (only1 + neither)
    cross = both * neither - only1 * only2
    if cross > 0:
        cross = max(0.0, cross - n / 2)
    phi = cross / math.sqrt(margins) if margins > 0 else 0.0
    down = _combine(p1 - low1, high2 - p2, phi)
    up = _combine(high1 - p1, p2 - low2, phi)
    difference = p1 - p2
    return Interval(difference, max(-1.0, difference - down), min(1.0, difference + up))


def _combine(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def _bootstrap(values: Values, confidence: float, least: float, most: float) -> Interval:
    """Expanded percentile bootstrap of the mean, seeded (Hesterberg 2015, Am. Statistician 69).

    The tails are those that make the interval of normal values as wide as Student's; the plain
    percentiles are too narrow for some tens of items. Where all values are equal, the rule of three
    instead.
    """
    mean, count = float(values.mean()), len(values)
    if np.ptp(values) == 0:
        return _rule_of_three(mean, count, confidence, least, most)
    draws = np.random.default_rng(0)
    size = max(1, CHUNK // count)
    means: list[Values] = []
    for first in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - first)
        means.append(values[draws.integers(0, count, (rows, count))].mean(axis=1))
    student = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    tail = float(stats.norm.cdf(-student * math.sqrt(count / (count - 1))))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def _rule_of_three(
    mean: float, count: int, confidence: float, least: float, most: float
) -> Interval:
    """For values that are all equal: what may have stayed unseen in so many."""
    spread = (most - least) * (1 - (1 - confidence) ** (1 / count))
    return Interval(mean, max(least, mean - spread), min(most, mean + spread))


def unit_sums(values: Values, units: Units) -> Values:
    """The sum of the values of each unit."""
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(unit, len(numbers)) for unit in units]
    return np.bincount(places, weights=values).astype(np.float64)


def shared_units(values: Values, units: Units | None) -> Units | None:
    """The units, None where no two scores share one.

    Raises ValueError when there are not as many units as scores.
    """
    if units is None:
        return None
    if len(units) != len(values):
        raise ValueError(f"there are {len(values)} scores and {len(units)} units")
    return units if len(set(units)) < len(units) else None


def checked_pair(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Values, Values]:
    """The scores of two models as arrays.

    Raises ValueError when there are none, when they differ in number, or leave [0, 1].
    """
    first, second = _checked(ours), _checked(theirs)
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    return first, second


def _checked(scores: Sequence[float]) -> Values:
    values = _not_empty(np.asarray(scores, dtype=np.float64))
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("scores lie in [0, 1]")
    return values


def _not_empty(values: Values) -> Values:
    if values.size == 0:
        raise ValueError("no scores to average")
    return values


def is_binary(values: Values) -> bool:
    """Whether all values are 0 or 1."""
    return bool(np.all((values == 0) | (values == 1)))

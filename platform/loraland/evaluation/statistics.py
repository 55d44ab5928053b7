"""Intervals for means and for paired differences. Pure numbers; knows no tasks and no models.

A mean of zeros and ones gets Wilson's interval, a paired difference of those Newcombe's; anything
else a bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9_999

Values = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its two-sided confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(scores: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of scores in [0, 1]. Raises ValueError when there are none."""
    values = _checked(scores)
    mean = float(values.mean())
    if _is_binary(values):
        found = stats.binomtest(int(values.sum()), len(values)).proportion_ci(confidence, "wilson")
        return Interval(mean, float(found.low), float(found.high))
    return _bootstrap(values, confidence, 0.0, 1.0)


def paired_interval(
    ours: Sequence[float], theirs: Sequence[float], confidence: float = CONFIDENCE
) -> Interval:
    """The mean of ours - theirs over the same items, scores in [0, 1].

    Raises ValueError when there are none or the lengths differ.
    """
    first, second = _checked(ours), _checked(theirs)
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    if _is_binary(first) and _is_binary(second):
        return _newcombe(first, second, confidence)
    return _bootstrap(first - second, confidence, -1.0, 1.0)


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
    """Percentile bootstrap of the mean, seeded.

    Where all values are equal, the rule of three instead.
    """
    mean = float(values.mean())
    if np.ptp(values) == 0:
        spread = (most - least) * (1 - (1 - confidence) ** (1 / len(values)))
        return Interval(mean, max(least, mean - spread), min(most, mean + spread))
    draws = np.random.default_rng(0)
    size = max(1, 2_000_000 // len(values))  # resamples at a time, for memory
    means: list[Values] = []
    for first in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - first)
        means.append(values[draws.integers(0, len(values), (rows, len(values)))].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def _checked(scores: Sequence[float]) -> Values:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no scores to average")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("scores lie in [0, 1]")
    return values


def _is_binary(values: Values) -> bool:
    return bool(np.all((values == 0) | (values == 1)))

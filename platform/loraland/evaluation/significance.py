"""Whether two models differ on the same items, over one comparison or a matrix of them.

A paired test, the correction of many of them, and the least lift that a comparison can find. Pure
numbers; knows no tasks and no models. What is random is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, stats

from loraland.evaluation.statistics import (
    CHUNK,
    CONFIDENCE,
    RESAMPLES,
    Units,
    Values,
    checked_pair,
    is_binary,
    shared_units,
    unit_sums,
)

POWER = 0.8  # of the least lift that a comparison is said to detect

Correction = Literal["holm", "bh"]


class PairedTest(NamedTuple):
    """A two-sided test of no difference between two models on the same items."""

    p_value: float
    method: Literal["mcnemar", "permutation"]
    wins: int  # items on which ours scores higher
    losses: int  # items on which theirs does


def paired_test(
    ours: Sequence[float],
    theirs: Sequence[float],
    units: Units | None = None,
    resamples: int = RESAMPLES,
) -> PairedTest:
    """Whether two models differ on the same items.

    McNemar's exact test for zeros and ones, otherwise a permutation test that gives each unit's
    difference a random sign; its least p-value is 1 / (resamples + 1), see `resamples_for`. Raises
    ValueError as `paired_interval` does.
    """
    first, second = checked_pair(ours, theirs)
    lifts = first - second
    wins, losses = int(np.sum(lifts > 0)), int(np.sum(lifts < 0))
    shared = shared_units(first, units)
    if shared is None and is_binary(first) and is_binary(second):
        p_value = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
        return PairedTest(p_value, "mcnemar", wins, losses)
    sums = lifts if shared is None else unit_sums(lifts, shared)
    return PairedTest(_sign_flips(sums, resamples), "permutation", wins, losses)


def resamples_for(tests: int, alpha: float = 1 - CONFIDENCE) -> int:
    """How many resamples let a clear winner pass any correction over so many tests."""
    return max(RESAMPLES, math.ceil(2 * tests / alpha))


def adjusted(p_values: Sequence[float], correction: Correction) -> list[float]:
    """P-values that may each be held against one level, in their order.

    `holm` bounds the chance of any false claim (Holm 1979, Scandinavian Journal of Statistics 6),
    however the tests depend on each other; `bh` bounds the expected share of false ones among the
    claims (Benjamini and Hochberg 1995, JRSS B 57), for independent or positively dependent tests.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if correction == "bh":
        return [float(p) for p in stats.false_discovery_control(values)] if len(values) else []
    order = np.argsort(values, kind="stable")
    steps = np.arange(len(values), 0, -1) * values[order]
    found = np.empty_like(values)
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in found]


def minimum_detectable_lift(
    items: float, discordance: float, alpha: float = 1 - CONFIDENCE, power: float = POWER
) -> float | None:
    """The least lift that a two-sided paired test finds with this power.

    `discordance` is the mean squared difference of the pairs: of zeros and ones, the share of items
    on which the models disagree. Normal approximation (Connor 1987, Biometrics 43); a lift beyond
    the discordance brings the discordance that it needs. None: no lift is enough.
    """
    level, strength = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)

    def surplus(lift: float) -> float:
        disagree = max(discordance, lift)
        error = level * math.sqrt(disagree) + strength * math.sqrt(disagree - lift * lift)
        return float(lift * math.sqrt(items) - error)

    return float(optimize.brentq(surplus, 1e-9, 1.0)) if surplus(1.0) >= 0 else None


def _sign_flips(lifts: Values, resamples: int) -> float:
    """The share of sign patterns whose sum is as far from zero as the one that was seen.

    All patterns where they are few; else random ones, of which the seen one counts as one (Phipson
    and Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9).
    """
    lifts = lifts[lifts != 0]
    count = len(lifts)
    if count == 0:
        return 1.0
    seen = abs(float(lifts.sum())) - 1e-9 * float(np.abs(lifts).sum())  # sums of floats may differ
    if 2**count <= resamples:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((2 * bits - 1) @ lifts) >= seen))
    draws = np.random.default_rng(0)
    size = max(1, CHUNK // count)
    as_far = 0
    for first in range(0, resamples, size):
        rows = min(size, resamples - first)
        signs = 2 * draws.integers(0, 2, (rows, count), dtype=np.int8) - 1
        as_far += int(np.sum(np.abs(signs @ lifts) >= seen))
    return (as_far + 1) / (resamples + 1)

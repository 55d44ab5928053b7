"""Spearman's correlations of what is known of tasks with how models fared on them.

Told values by task; knows no rows and no models. The report's Figure 8 is such a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

from scipy import stats

from loraland.analysis import data
from loraland.analysis.study import Study

CONFIDENCE = 0.95
LEAST = 4  # tasks, for an interval to exist
QUALITIES = (
    "gpt4",
    "max_over_gpt4",
    "mean_lift",
    "best_base",
    "mean_base",
    "best_tuned",
    "mean_tuned",
)

Values = Mapping[str, Mapping[str, float]]  # task -> name -> value


class Correlation(NamedTuple):
    """Of two quantities over tasks."""

    first: str
    second: str
    tasks: int
    rho: float  # nan where one of them is constant
    low: float
    high: float  # 95 % interval with `low`
    p: float  # two-sided, of no correlation
    printed: float | None  # in Figure 8, over the report's 31 tasks

    @property
    def meets_printed(self) -> bool | None:
        """Whether the printed value lies within the interval; None without one."""
        return None if self.printed is None else self.low <= self.printed <= self.high


class Check(NamedTuple):
    """A printed correlation that the report's own tables determine."""

    first: str
    second: str
    printed: float
    recomputed: float

    @property
    def agrees(self) -> bool:
        """Whether the two are less than 0.01 apart.

        Half of that is the printed value's rounding; the table's own makes ties that the report's
        unrounded scores need not have had.
        """
        return abs(self.printed - self.recomputed) < 0.01


def qualities(study: Study) -> dict[str, dict[str, float]]:
    """By task, the seven numbers that Figure 8 holds heuristics against."""
    found = {}
    for task in study.tasks:
        cells = study.of_task(task)
        tuned, untuned = [c.tuned for c in cells], [c.untuned for c in cells]
        row = {
            "gpt4": study.gpt4[task],
            "max_over_gpt4": max(tuned) - study.gpt4[task],
            "mean_lift": fmean(c.lift for c in cells),
            "best_base": max(untuned),
            "mean_base": fmean(untuned),
            "best_tuned": max(tuned),
            "mean_tuned": fmean(tuned),
        }
        # Equal scores must stay ties: no rest of a binary subtraction may rank them.
        found[task] = {name: round(value, 6) for name, value in row.items()}
    return found


def figure8() -> dict[tuple[str, str], float]:
    """Figure 8 as printed, both halves."""
    return {
        (row["name"], other): float(value)
        for row in data.rows("figure8")
        for other, value in row.items()
        if other != "name"
    }


def checkable(study: Study) -> list[Check]:
    """Pairs of Figure 8 whose values per task stand in the report's tables: 36 of its 210."""
    values = qualities(study)
    for name, task in study.tasks.items():
        values[name] |= {"example_length_p95": task.p95_tokens, "train_examples": task.train_rows}
    printed, found = figure8(), []
    for first, second in combinations((*QUALITIES, "example_length_p95", "train_examples"), 2):
        rho = correlate(values, first, second).rho
        found.append(Check(first, second, printed[first, second], rho))
    return found


def correlate(values: Values, first: str, second: str) -> Correlation:
    """Spearman's rho of two names over the tasks that have both.

    The interval is Fisher's with the variance of Bonett and Wright (2000), Psychometrika 65,
    (1 + rho^2 / 2) / (n - 3). Raises ValueError with fewer than four tasks.
    """
    pairs = [(row[first], row[second]) for row in values.values() if {first, second} <= row.keys()]
    if len(pairs) < LEAST:
        raise ValueError(f"{len(pairs)} tasks have both {first} and {second}; {LEAST} are needed")
    printed = figure8().get((first, second))
    if any(len(set(column)) == 1 for column in zip(*pairs, strict=True)):
        nan = math.nan
        return Correlation(first, second, len(pairs), nan, nan, nan, nan, printed)
    found = stats.spearmanr(pairs)
    rho = float(found.statistic)
    low, high = _interval(rho, len(pairs))
    return Correlation(first, second, len(pairs), rho, low, high, float(found.pvalue), printed)


def matrix(values: Values, firsts: Sequence[str], seconds: Sequence[str]) -> list[Correlation]:
    """Every pair of `firsts` with `seconds`, row by row. Raises ValueError as `correlate` does."""
    return [correlate(values, first, second) for first in firsts for second in seconds]


def discoveries(found: Sequence[Correlation], rate: float = 0.05) -> list[Correlation]:
    """Those that hold when so many are looked at: Benjamini and Hochberg (1995) at `rate`."""
    tested = [one for one in found if not math.isnan(one.p)]
    if not tested:
        return []
    adjusted = stats.false_discovery_control([one.p for one in tested])
    return [one for one, p in zip(tested, adjusted, strict=True) if p <= rate]


def least_significant(tasks: int, level: float = 0.05) -> float:
    """The smallest |rho| that is significant at `level` by itself, by Student's t with n - 2."""
    t = float(stats.t.ppf(1 - level / 2, tasks - 2))
    return t / math.sqrt(tasks - 2 + t * t)


def printed_discoveries(rate: float = 0.05, tasks: int = 31) -> list[tuple[str, str, float]]:
    """Figure 8's pairs of quality and heuristic that survive Benjamini and Hochberg at `rate`."""
    printed = figure8()
    names = dict.fromkeys(first for first, _ in printed)
    found = []
    for quality in QUALITIES:
        for name in names:
            if name not in QUALITIES:
                rho = printed[quality, name]
                low, high = _interval(rho, tasks)
                p = _p_value(rho, tasks)
                found.append(Correlation(quality, name, tasks, rho, low, high, p, rho))
    return [(one.first, one.second, one.rho) for one in discoveries(found, rate)]


def _p_value(rho: float, n: int) -> float:
    t = abs(rho) * math.sqrt((n - 2) / (1 - rho * rho))
    return float(2 * stats.t.sf(t, n - 2))


def _interval(rho: float, n: int) -> tuple[float, float]:
    if abs(rho) >= 1:
        return rho, rho
    half = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)

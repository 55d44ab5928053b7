"""Means of the report's cells by base, task and category, with intervals over tasks.

Pure numbers. An interval says how the mean would move with other tasks of the kind; the report has
one run per cell, so that nothing can be said about seeds, nor about the items of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from loraland.analysis.study import Study, StudyCell

CONFIDENCE = 0.95
RESAMPLES = 9_999


class Marginal(NamedTuple):
    """Some cells of the report, averaged. Scores in [0, 1]."""

    name: str
    cells: int
    untuned: float
    tuned: float
    lift: float
    lift_low: float | None  # None: one task alone has no spread
    lift_high: float | None
    over_gpt4: float
    above_base: int  # cells, strictly
    above_gpt4: int  # cells, strictly


def overall(study: Study) -> Marginal:
    """All 310 cells."""
    return _marginal("all", study.cells, study)


def by_base(study: Study) -> list[Marginal]:
    """A line per base, the best mean first."""
    lines = [_marginal(base, study.of_base(base), study) for base in study.bases]
    return sorted(lines, key=lambda line: -line.tuned)


def by_task(study: Study) -> list[Marginal]:
    """A line per task, in the report's order."""
    return [_marginal(task, study.of_task(task), study) for task in study.tasks]


def by_category(study: Study) -> list[Marginal]:
    """A line per category, in the report's order."""
    names = dict.fromkeys(task.category for task in study.tasks.values())
    return [
        _marginal(
            name, [cell for cell in study.cells if study.tasks[cell.task].category == name], study
        )
        for name in names
    ]


BY: dict[str, Callable[[Study], list[Marginal]]] = {
    "base": by_base,
    "task": by_task,
    "category": by_category,
}


def _marginal(name: str, cells: Sequence[StudyCell], study: Study) -> Marginal:
    low, high = mean_interval_over_tasks((cell.task, cell.lift) for cell in cells)
    over = [study.over_gpt4(cell) for cell in cells]
    return Marginal(
        name=name,
        cells=len(cells),
        untuned=fmean(cell.untuned for cell in cells),
        tuned=fmean(cell.tuned for cell in cells),
        lift=fmean(cell.lift for cell in cells),
        lift_low=low,
        lift_high=high,
        over_gpt4=fmean(over),
        above_base=sum(cell.lift > 0 for cell in cells),
        above_gpt4=sum(gap > 0 for gap in over),
    )


def mean_interval_over_tasks(
    values: Iterable[tuple[str, float]],
) -> tuple[float | None, float | None]:
    """The 95 % percentile bootstrap of a mean when whole tasks are drawn, seeded.

    `values` are (task, value) with equally many values per task, so that the mean of the tasks'
    means is the mean. Two None where there is one task only.
    """
    found: dict[str, list[float]] = {}
    for task, value in values:
        found.setdefault(task, []).append(value)
    if len(found) < 2:
        return None, None
    means = np.array([fmean(members) for members in found.values()])
    drawn = np.random.default_rng(0).integers(0, len(means), (RESAMPLES, len(means)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)

"""What a study found: errors by cell with intervals over seeds, and the difference to the first.

Told results as they are kept; trains nothing. With a few seeds an interval is wide, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from loraland.evaluation.statistics import CONFIDENCE, Interval
from loraland.recurrent.recipe import Study


@dataclass(frozen=True, slots=True)
class Outcome:
    """One cell over its seeds."""

    cell: str
    seeds: int
    error: Interval | None  # over seeds, Student's; None below two seeds
    errors: tuple[float, ...]  # a seed each
    solved: int  # seeds
    updates: float  # mean
    parameters: int
    seconds: float  # mean
    less: Interval | None  # error of the first cell minus this one, over seeds that both have


def outcomes(study: Study, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Outcome]:
    """By cell, in the order of the study; those without a result are left out."""
    first = next(iter(study.cells))
    by_seed = {
        cell: {int(one["seed"]): float(one["error"]) for one in found.get(cell, ())}
        for cell in study.cells
    }
    made = []
    for cell, errors in by_seed.items():
        results = found.get(cell, ())
        if not errors:
            continue
        shared = sorted(set(errors) & set(by_seed[first]))
        differences = [by_seed[first][seed] - errors[seed] for seed in shared]
        made.append(
            Outcome(
                cell=cell,
                seeds=len(errors),
                error=student(list(errors.values()), least=0.0),
                errors=tuple(errors.values()),
                solved=sum(one < study.solved_below for one in errors.values()),
                updates=float(np.mean([one["updates"] for one in results])),
                parameters=int(results[0]["parameters"]),
                seconds=float(np.mean([one["seconds"] for one in results])),
                less=None if cell == first else student(differences),
            )
        )
    return made


def student(values: Sequence[float], least: float = -np.inf) -> Interval | None:
    """Student's interval of a mean, not below `least`; None below two values."""
    if len(values) < 2:
        return None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread / len(values) ** 0.5
    return Interval(mean, max(least, mean - reach), mean + reach)

"""What a new task can expect before it is trained, from the report's 310 cells.

Joins traits, scores and regression. The report's bases have 2.5 to 8.5 billion parameters and its
recipe is one: nothing here holds for other bases or recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from loraland.analysis import data
from loraland.analysis.heuristics import NAMES
from loraland.analysis.prediction import (
    Design,
    Fit,
    Floats,
    LeftOut,
    Quality,
    interval,
    judge,
    leave_one_task_out,
)
from loraland.analysis.study import Study
from loraland.analysis.traits import FEATURES, Traits, published_traits
from loraland.errors import InvalidConfiguration, UnknownBase, did_you_mean

LEVEL = 0.9  # of the interval of a forecast; 31 tasks allow no more than 0.96
TARGETS = ("score", "lift")
BASE_SCORE = "base score"

Features = Mapping[str, Sequence[float]]  # by task


class Assessment(NamedTuple):
    """How well scores and lifts of left-out tasks are foretold from one set of features."""

    known: str  # in words, what the features are
    with_base_score: bool  # whether the base's own score is among them
    score: Quality
    lift: Quality


class Expected(NamedTuple):
    """What an adapter of a new task can expect on one base, with a 90 % interval."""

    base: str
    score: float
    score_low: float
    score_high: float
    lift: float
    lift_low: float
    lift_high: float


class Neighbour(NamedTuple):
    """One of the report's tasks that looks like the new one."""

    task: str
    distance: float  # in standard deviations of the features over the report's tasks
    untuned: float  # mean of ten bases
    tuned: float  # mean of ten adapters
    best: float  # of ten adapters


class Learned(NamedTuple):
    """What forecasts stand on."""

    known: dict[str, Traits]  # the tasks learned from
    with_base_score: bool
    design: Design
    left_out: LeftOut
    fit: Fit


class Outlook(NamedTuple):
    """A forecast for a task."""

    traits: Traits
    tasks: int  # it was learned from
    base_score: float | None  # as given
    beyond: list[str]  # features outside the range of those tasks: what follows is extrapolated
    expected: list[Expected]
    nearest: list[Neighbour]


def counted_heuristics() -> dict[str, dict[str, float]]:
    """Figure 8's heuristics as counted by us, for the tasks whose train rows were at hand."""
    return {
        row["task"]: {name: float(row[name]) for name in NAMES} for row in data.rows("heuristics")
    }


def assess(study: Study, on: Callable[[str], None] = lambda known: None) -> list[Assessment]:
    """The table of predictions: each set of features, without and with the base's score.

    Takes seconds; `on` hears what is being judged. The mean predictor beside each knows the base
    and nothing of the task.
    """
    traits = {name: own.features() for name, own in published_traits(study).items()}
    nothing: Features = dict.fromkeys(study.tasks, ())
    counted = counted_heuristics()
    heuristics = {task: [_scaled(n, row[n]) for n in NAMES] for task, row in counted.items()}
    sets: list[tuple[str, tuple[str, ...], Features, tuple[bool, ...]]] = [
        ("the base's score alone", (), nothing, (True,)),
        (f"4 traits, {len(traits)} tasks", FEATURES, traits, (False, True)),
        (f"{len(NAMES)} heuristics, {len(counted)} tasks", NAMES, heuristics, (False, True)),
    ]
    found = []
    for known, names, features, choices in sets:
        for with_base in choices:
            words = f"{known} and the base's score" if with_base and names else known
            on(words)
            design = design_of(study, names, features, with_base)
            left_out = _left_out(design, with_base)
            score, lift = (judge(design, left_out, target) for target in range(len(TARGETS)))
            found.append(Assessment(words, with_base, score, lift))
    return found


def _left_out(design: Design, with_base_score: bool) -> LeftOut:
    """Each task foretold from the others.

    Where the base's score is known, the lift is what the foretold score has above it: two
    penalised fits would not agree.
    """
    found = leave_one_task_out(design)
    if not with_base_score:
        return found
    score, base_score = found.predicted[:, 0], design.features[:, -1]
    return found._replace(predicted=np.column_stack([score, score - base_score]))


def _scaled(name: str, value: float) -> float:
    """Lengths and counts on a logarithmic scale, shares as they are."""
    is_share = name.startswith(("similarity", "compressibility"))
    return value if is_share else math.log10(1 + value)


def design_of(
    study: Study, names: Sequence[str], features: Features, with_base_score: bool
) -> Design:
    """The cells of all tasks that have features; the targets are score and lift."""
    cells = [cell for cell in study.cells if cell.task in features]
    rows = [_row(features[cell.task], cell.untuned, with_base_score) for cell in cells]
    return Design(
        names=(*names, BASE_SCORE) if with_base_score else tuple(names),
        features=np.array(rows, dtype=np.float64),
        targets=np.array([[cell.tuned, cell.lift] for cell in cells], dtype=np.float64),
        tasks=tuple(cell.task for cell in cells),
        bases=tuple(cell.base for cell in cells),
    )


def _row(features: Sequence[float], base_score: float, with_base_score: bool) -> list[float]:
    return [*features, base_score] if with_base_score else [*features]


def learn(study: Study, with_base_score: bool = False, without: str | None = None) -> Learned:
    """Learn from the traits of the report's tasks; one of them may be left out."""
    known = published_traits(study)
    if without is not None:
        known.pop(without, None)
    features = {task: other.features() for task, other in known.items()}
    design = design_of(study, FEATURES, features, with_base_score)
    return Learned(known, with_base_score, design, _left_out(design, with_base_score), Fit(design))


def foretell(
    study: Study,
    learned: Learned,
    traits: Traits,
    base: str | None = None,
    base_score: float | None = None,
) -> Outlook:
    """The outlook of a task on one base of the report, or on each.

    `base_score` is the score of `base` alone on the task, for what was learned with base scores.
    Raises UnknownBase, InvalidConfiguration.
    """
    check_base(study, base, base_score)
    if (base_score is None) == learned.with_base_score:
        raise ValueError("a base's score is given where none was learned from, or the reverse")
    mine = np.array([_row(traits.features(), base_score or 0.0, learned.with_base_score)])
    wanted = [base] if base else list(study.bases)
    expected = [_expected(learned, mine, which, base_score) for which in wanted]
    expected.sort(key=lambda one: -one.score)
    return Outlook(
        traits=traits,
        tasks=len(learned.known),
        base_score=base_score,
        beyond=_beyond(traits, learned.known),
        expected=expected,
        nearest=nearest(study, traits, learned.known),
    )


def _beyond(traits: Traits, known: Mapping[str, Traits]) -> list[str]:
    table = np.array([other.features() for other in known.values()])
    mine = np.array(traits.features())
    outside = (mine < table.min(axis=0)) | (mine > table.max(axis=0))
    return [name for name, is_outside in zip(FEATURES, outside, strict=True) if is_outside]


def check_base(study: Study, base: str | None, base_score: float | None) -> None:
    """Before anything is learned. Raises UnknownBase, InvalidConfiguration."""
    if base is not None and base not in study.bases:
        raise UnknownBase(
            f"'{base}' is none of the report's bases, and its cells say nothing about others; "
            f"{did_you_mean(base, study.bases)}"
        )
    if base_score is not None and base is None:
        raise InvalidConfiguration("a base's score is given without the base; name it with --base")
    if base_score is not None and not 0 <= base_score <= 1:
        raise InvalidConfiguration(f"the base's score is {base_score}; give one from 0 to 1")


def _expected(learned: Learned, mine: Floats, base: str, base_score: float | None) -> Expected:
    score = _foretold(learned, mine, base, 0)
    if base_score is None:
        return Expected(base, *score, *_foretold(learned, mine, base, 1))
    middle, low, high = (value - base_score for value in score)
    return Expected(base, *score, middle, low, high)


def _foretold(learned: Learned, mine: Floats, base: str, target: int) -> tuple[float, float, float]:
    """A target and its interval, within what a score or a lift can be."""
    middle = learned.fit.predict(mine, [base])[0, target]
    low, high = interval(learned.design, learned.left_out, mine, base, target, LEVEL)
    least = -1.0 if TARGETS[target] == "lift" else 0.0
    found: Floats = np.clip([middle, low, high], least, 1.0)
    return float(found[0]), float(found[1]), float(found[2])


def nearest(
    study: Study, traits: Traits, known: Mapping[str, Traits], most: int = 3
) -> list[Neighbour]:
    """The report's tasks that look most alike, the nearest first."""
    table = np.array([other.features() for other in known.values()])
    apart = (table - np.array(traits.features())) / table.std(axis=0)
    distances = np.sqrt((apart**2).sum(axis=1))
    found = []
    for task, distance in sorted(zip(known, distances, strict=True), key=lambda pair: pair[1]):
        cells = study.of_task(task)
        tuned = [cell.tuned for cell in cells]
        untuned = fmean(cell.untuned for cell in cells)
        found.append(Neighbour(task, float(distance), untuned, fmean(tuned), max(tuned)))
    return found[:most]

"""What an answer is worth: one strict grader per metric, text in, a score from 0 to 1 out.

A grader reads the whole output. What it cannot read scores 0 and is `parsed=None`, so that the
share of unreadable answers can be shown beside the score. No grader raises on any output.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, Protocol

from loraland.errors import DataRefused, MetricUnavailable, UnknownTask, did_you_mean
from loraland.tasks import sqlite
from loraland.tasks.task import Item, Task


class Grade(NamedTuple):
    """One answer, judged."""

    parsed: str | None  # what was understood, in a canonical form; None: the output is unreadable
    score: float  # in [0, 1]; 0 when unreadable


UNREADABLE = Grade(None, 0.0)


class Grader(Protocol):
    """Judges answers of one task."""

    def grade(self, output: str, item: Item) -> Grade:
        """Judge an output, cut at the task's stop strings, against an item's gold answer.

        The gold answer itself scores exactly 1.0. Raises nothing, whatever the output.
        """
        ...


def grader_for(task: Task) -> Grader:
    """The grader of a task's metric.

    Raises MetricUnavailable when the metric cannot be computed here, UnknownTask when there is none
    of that name.
    """
    if task.metric not in METRICS:
        raise UnknownTask(
            f"task '{task.name}' has metric '{task.metric}', which is not one; "
            f"{did_you_mean(task.metric, METRICS)}"
        )
    return METRICS[task.metric](task)


def gold_score(task: Task, items: Iterable[Item]) -> float:
    """The mean score of gold answers through the task's own grader; all but 1.0 is a defect.

    Raises DataRefused when there are no items, and what `grader_for` raises.
    """
    grader = grader_for(task)
    scores = [grader.grade(item.target, item).score for item in items]
    if not scores:
        raise DataRefused(
            f"task '{task.name}' has no items to grade; raise the limit or check the source"
        )
    return math.fsum(scores) / len(scores)


@dataclass(frozen=True, slots=True)
class LabelGrader:
    """Accuracy over a closed set: the output is one label, up to case and one final period."""

    labels: tuple[str, ...]

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when the label is the gold one; unreadable when it is none of the labels."""
        found = self._label(output)
        return (
            UNREADABLE if found is None else Grade(found, float(found == self._label(item.target)))
        )

    def _label(self, text: str) -> str | None:
        said = text.strip().casefold()
        for label in self.labels:
            if said in (label.casefold(), f"{label.casefold()}."):
                return label
        return None


class ExactGrader:
    """The trimmed output equals the gold answer, letter by letter."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when equal; an empty output is unreadable."""
        said = output.strip()
        return Grade(said, float(said == item.target)) if said else UNREADABLE


class RougeGrader:
    """ROUGE-L F-measure (Lin 2004) on lower-case letters and digits, without stemming."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score in [0, 1]; an empty output is unreadable."""
        said = output.strip()
        if not said:
            return UNREADABLE
        if said == item.target:
            return Grade(said, 1.0)  # also where a text has no letter or digit to count
        score = _rouge_l().score(item.target, said)["rougeL"].fmeasure
        return Grade(said, min(1.0, float(score)))


@cache
def _rouge_l() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: only when needed

    return RougeScorer(["rougeL"])


@dataclass(frozen=True, slots=True)
class DistanceGrader:
    """1 - |d| / span for a number between bounds: what the report calls mae, higher is better."""

    low: float
    high: float

    def grade(self, output: str, item: Item) -> Grade:
        """Score in [0, 1]; unreadable when the whole output is not a number within the bounds."""
        said, gold = self._number(output), self._number(item.target)
        if said is None or gold is None:
            return UNREADABLE
        return Grade(f"{said:g}", 1.0 - abs(said - gold) / (self.high - self.low))

    def _number(self, text: str) -> float | None:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,30})?)\.?", text.strip(), re.ASCII)
        if match is None or not self.low <= float(match[1]) <= self.high:
            return None
        return float(match[1])


class LastNumberGrader:
    """The last number of the output equals the last number of the gold answer."""

    # A minus counts when no digit, letter or bracket stands before it, a comma between thousands.
    _NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?", re.ASCII)

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when equal as numbers; unreadable without a number."""
        said, gold = self._last(output), self._last(item.target)
        return UNREADABLE if said is None else Grade(str(said), float(said == gold))

    def _last(self, text: str) -> Decimal | None:
        found = self._NUMBER.findall(text)
        return Decimal(found[-1].replace(",", "")) if found else None


class EntitiesGrader:
    """Micro F1 over (kind, name) pairs of a JSON object of lists; both empty counts as 1."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score in [0, 1]; unreadable when the output is not a JSON object of lists of texts."""
        said, gold = _entities(output), _entities(item.target)
        if said is None or gold is None:
            return UNREADABLE
        total = said.total() + gold.total()
        score = 2 * (said & gold).total() / total if total else 1.0
        # ASCII, so that a lone surrogate behind an escape cannot break a file it is written to
        return Grade(json.dumps(sorted(said.elements())), score)


def _entities(text: str) -> Counter[tuple[str, str]] | None:
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    pairs: Counter[tuple[str, str]] = Counter()
    for kind, names in found.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        pairs.update((kind, " ".join(name.split())) for name in names)
    return pairs


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in a JSON object")
    return found


class SqlGrader:
    """The query gives the same rows as the gold query on made-up tables of the row's schema."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when the rows agree; unreadable when SQLite cannot or may not run the output."""
        query = output.strip()
        if not query:
            return UNREADABLE
        try:
            return Grade(query, float(sqlite.agree(str(item.row["schema"]), item.target, query)))
        except sqlite.QueryRefused:
            return UNREADABLE


class IsoDateGrader:
    """The whole output is one day of the calendar as YYYY-MM-DD."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when it is the gold day; unreadable when it is no day, or written otherwise."""
        said = output.strip()
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", said, re.ASCII) is None:
            return UNREADABLE
        try:
            day = date.fromisoformat(said).isoformat()
        except ValueError:  # such as a 30th of February
            return UNREADABLE
        return Grade(day, float(day == item.target))


def _humaneval(task: Task) -> Grader:
    raise MetricUnavailable(
        f"task '{task.name}' is judged by running generated programs against HumanEval's tests, "
        "and running generated code is not enabled here; choose a task with another metric"
    )


METRICS: dict[str, Callable[[Task], Grader]] = {
    "accuracy": lambda task: LabelGrader(task.labels),
    "exact": lambda task: ExactGrader(),
    "rouge": lambda task: RougeGrader(),
    "mae": lambda task: DistanceGrader(0.0, 5.0),
    "last_number": lambda task: LastNumberGrader(),
    "entities_json": lambda task: EntitiesGrader(),
    "sql_execution": lambda task: SqlGrader(),
    "iso_date": lambda task: IsoDateGrader(),
    "humaneval": _humaneval,
}

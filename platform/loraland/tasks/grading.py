"""Which grader a task has, and which scores stand beside its headline.

One headline score a task, strict: text in, a score from 0 to 1 out. A grader reads the whole
output; what it cannot read scores 0 and is `parsed=None`, so that the share of unreadable answers
can be shown beside the score. Secondary scores have names: of single answers (`lenient`,
`entity_f1`, ...) they are kept with each grade, of all answers together (`matthews`, ...) they are
computed by `over_all`. No grader raises on any output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from loraland.errors import DataRefused, UnknownTask, did_you_mean
from loraland.tasks.metrics import labels, numbers, texts, wikisql
from loraland.tasks.metrics.entities import EntitiesGrader, EntityScores
from loraland.tasks.metrics.grade import UNREADABLE, Grade, Grader, Judged, OfAll, OfItem
from loraland.tasks.metrics.programs import (
    ProgramGrader,
    RunProgram,
    Verdict,
    humaneval_without_runner,
    require_tests,
)
from loraland.tasks.metrics.queries import SqlGrader
from loraland.tasks.task import Item, Task

__all__ = [
    "LENIENT",
    "METRICS",
    "RUNNING",
    "SECONDARY",
    "UNREADABLE",
    "Grade",
    "Grader",
    "Judged",
    "RunProgram",
    "Verdict",
    "gold_score",
    "grader_for",
    "over_all",
    "require_gradable",
]

RUNNING = ("humaneval",)  # metrics that run programs which a model wrote
STARS = numbers.DistanceGrader(0.0, 5.0)  # of glue_stsb

METRICS: Mapping[str, Callable[[Task], Grader]] = {
    "accuracy": lambda task: labels.LabelGrader(task.labels),
    "exact": lambda task: texts.ExactGrader(),
    "rouge": lambda task: texts.RougeGrader(),
    "mae": lambda task: STARS,
    "last_number": lambda task: numbers.LastNumberGrader(),
    "entities_json": lambda task: EntitiesGrader(),
    "sql_execution": lambda task: SqlGrader(),
    "iso_date": lambda task: texts.IsoDateGrader(),
    "humaneval": lambda task: _without_runner(),  # grader_for puts a runner in its place
}


@dataclass(frozen=True, slots=True)
class Secondary:
    """A score beside the headline: of each answer, or of all of them together."""

    of_item: Callable[[Task], OfItem] | None = None
    of_all: Callable[[Task], OfAll] | None = None


def _entities(task: Task) -> EntityScores:
    return EntityScores(task.inputs[0])


def _rule(rule: labels.LenientRule) -> Callable[[Task], OfItem]:
    return lambda task: lambda output, item: float(rule(output, item.target, task.labels))


# How `lenient`, the secondary score, reads an answer.
LENIENT: Mapping[str, Callable[[Task], OfItem]] = {
    **{name: _rule(rule) for name, rule in labels.RULES.items()},
    "first_on_scale": lambda task: STARS.lenient,
}

SECONDARY: Mapping[str, Secondary] = {
    "macro_f1": Secondary(of_all=lambda task: labels.macro_f1),
    "matthews": Secondary(of_all=lambda task: labels.matthews),
    "pearson": Secondary(of_all=lambda task: numbers.pearson),
    "spearman": Secondary(of_all=lambda task: numbers.spearman),
    "marked_number": Secondary(of_item=lambda task: numbers.marked_number),
    "marked_readable": Secondary(of_item=lambda task: numbers.marked_readable),
    "exact_match": Secondary(of_item=lambda task: texts.exact_match),
    "word_f1": Secondary(of_item=lambda task: texts.word_f1),
    "topic_f1": Secondary(of_item=lambda task: texts.topic_f1),
    "entity_f1": Secondary(of_item=lambda task: _entities(task).of_item),
    "entity_micro_f1": Secondary(of_all=lambda task: _entities(task).micro_f1),
    "entities_readable": Secondary(of_item=lambda task: _entities(task).readable),
    "logical_form_accuracy": Secondary(of_item=lambda task: wikisql.same_form),
    "execution_accuracy": Secondary(of_item=lambda task: wikisql.same_rows),
    "sql_readable": Secondary(of_item=lambda task: wikisql.readable),
}


def grader_for(task: Task, run: RunProgram | None = None) -> Grader:
    """The grader of a task's metric, with the scores beside it.

    `run` runs programs that a model wrote; None: none may be run. Raises MetricUnavailable when the
    metric cannot be computed here, UnknownTask when there is none of that name.
    """
    if task.metric not in METRICS:
        raise UnknownTask(
            f"task '{task.name}' has metric '{task.metric}', which is not one; "
            f"{did_you_mean(task.metric, METRICS)}"
        )
    headline = ProgramGrader(run) if task.metric in RUNNING and run else METRICS[task.metric](task)
    beside: dict[str, OfItem] = {}
    if task.lenient:
        beside["lenient"] = LENIENT[task.lenient](task)
    for name in task.secondary:
        if make := SECONDARY[name].of_item:
            beside[name] = make(task)
    return _Together(headline, beside) if beside else headline


def _without_runner() -> Grader:
    raise humaneval_without_runner()


@dataclass(frozen=True, slots=True)
class _Together:
    """A headline and scores beside it, of the same output."""

    headline: Grader
    beside: Mapping[str, OfItem]

    def grade(self, output: str, item: Item) -> Grade:
        """The headline's grade, with the secondary scores."""
        grade = self.headline.grade(output, item)
        beside = {name: judge(output, item) for name, judge in self.beside.items()}
        return replace(grade, secondary={**grade.secondary, **beside})


def over_all(task: Task, answers: Sequence[Judged]) -> dict[str, float]:
    """The task's secondary scores of all answers together, by name.

    One that is not defined for these answers (a correlation of equal numbers) is left out.
    """
    found: dict[str, float] = {}
    for name in task.secondary:
        make = SECONDARY[name].of_all
        value = make(task)(answers) if make and answers else None
        if value is not None:
            found[name] = value
    return found


def require_gradable(task: Task, items: Iterable[Item], run: RunProgram | None) -> None:
    """Raises MetricUnavailable when answers to these items could not be graded in the end."""
    grader_for(task, run)
    if task.metric in RUNNING:
        for item in items:
            require_tests(item)


def gold_score(task: Task, items: Iterable[Item], run: RunProgram | None = None) -> float:
    """The mean score of gold answers through the task's own grader; all but 1.0 is a defect.

    Raises DataRefused when there are no items, and what `grader_for` raises.
    """
    grader = grader_for(task, run)
    scores = [grader.grade(item.target, item).score for item in items]
    if not scores:
        raise DataRefused(
            f"task '{task.name}' has no items to grade; raise the limit or check the source"
        )
    return math.fsum(scores) / len(scores)

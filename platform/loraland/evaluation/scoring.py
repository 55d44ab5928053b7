"""From stored answers to a score: grading, means with intervals, the paired lift.

Needs no model and no torch: a score can be computed again anywhere from storage alone. Programs
that a model wrote are run, confined, where the settings allow it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from loraland import settings
from loraland.adapters.card import Score, SecondaryScore, utc_now
from loraland.evaluation import sandbox
from loraland.evaluation.samples import Sample, read_samples
from loraland.evaluation.statistics import CONFIDENCE, mean_interval, paired_interval
from loraland.storage import Storage
from loraland.tasks import grading
from loraland.tasks.grading import Grade, Judged, RunProgram, grader_for, over_all
from loraland.tasks.task import Item, Task


def program_runner() -> RunProgram | None:
    """What runs programs that a model wrote; None when the settings do not allow it.

    Raises SandboxUnavailable when they do and this machine cannot confine programs.
    """
    if not settings.run_code():
        return None
    sandbox.require_sandbox()
    return sandbox.judge_program


def require_gradable(task: Task, items: Iterable[Item] = ()) -> None:
    """Raises MetricUnavailable or SandboxUnavailable when answers could not be graded in the end.

    To be asked before answers are paid for.
    """
    grading.require_gradable(task, items, _runner_of(task))


def _runner_of(task: Task) -> RunProgram | None:
    return program_runner() if task.metric in grading.RUNNING else None


def grade(task: Task, samples: Sequence[Sample]) -> list[Sample]:
    """The same samples graded by the task's grader; needs no model.

    Raises MetricUnavailable, SandboxUnavailable.
    """
    grader = grader_for(task, _runner_of(task))
    graded = []
    for sample in samples:
        if sample.failure is not None:
            graded.append(replace(sample, parsed=None, score=0.0, secondary={}))
            continue
        found = grader.grade(sample.output, _item(sample))
        secondary = dict(found.secondary)
        graded.append(replace(sample, parsed=found.parsed, score=found.score, secondary=secondary))
    return graded


def _item(sample: Sample) -> Item:
    return Item(sample.prompt, sample.target, json.loads(sample.row))


def regrade(
    task: Task, samples: str, base_samples: str, data_source: str, storage: Storage
) -> Score:
    """The score of stored samples, graded anew. Needs no model. Raises SamplesMissing."""
    ours = grade(task, read_samples(storage, samples)[0])
    theirs = grade(task, read_samples(storage, base_samples)[0])
    return score(task, ours, theirs, samples, base_samples, data_source)


def score(
    task: Task,
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    samples: str,
    base_samples: str,
    data_source: str,
) -> Score:
    """Means with intervals, and the paired lift.

    Raises ValueError when the items are not the same.
    """
    if [s.prompt for s in ours] != [s.prompt for s in theirs]:
        raise ValueError(f"{samples} and {base_samples} answer different items")
    mean = mean_interval([s.score for s in ours])
    base = mean_interval([s.score for s in theirs])
    lift = paired_interval([s.score for s in ours], [s.score for s in theirs])
    return Score(
        metric=task.metric,
        items=len(ours),
        mean=mean.mean,
        low=mean.low,
        high=mean.high,
        base_mean=base.mean,
        base_low=base.low,
        base_high=base.high,
        lift=lift.mean,
        lift_low=lift.low,
        lift_high=lift.high,
        unparsable=sum(s.parsed is None for s in ours),
        base_unparsable=sum(s.parsed is None for s in theirs),
        failures=sum(s.failure is not None for s in [*ours, *theirs]),
        secondary=_of_items(ours, theirs) | _of_all(task, ours, theirs),
        confidence=CONFIDENCE,
        samples=samples,
        base_samples=base_samples,
        data_source=data_source,
        created=utc_now(),
    )


def _of_items(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, SecondaryScore]:
    """Means of the scores that each answer has, with intervals; a failure counts as 0."""
    found = {}
    for name in sorted({name for sample in [*ours, *theirs] for name in sample.secondary}):
        first = [sample.secondary.get(name, 0.0) for sample in ours]
        second = [sample.secondary.get(name, 0.0) for sample in theirs]
        mean, base = mean_interval(first), mean_interval(second)
        lift = paired_interval(first, second)
        found[name] = SecondaryScore(
            value=mean.mean,
            low=mean.low,
            high=mean.high,
            base_value=base.mean,
            base_low=base.low,
            base_high=base.high,
            lift=lift.mean,
            lift_low=lift.low,
            lift_high=lift.high,
        )
    return found


def _of_all(
    task: Task, ours: Sequence[Sample], theirs: Sequence[Sample]
) -> dict[str, SecondaryScore]:
    """The scores of all answers together; a failure counts as an answer that is not readable."""
    first, second = over_all(task, _judged(ours)), over_all(task, _judged(theirs))
    found = {}
    for name in sorted({*first, *second}):
        value, base = first.get(name), second.get(name)
        found[name] = SecondaryScore(
            value=value,
            low=None,
            high=None,
            base_value=base,
            base_low=None,
            base_high=None,
            lift=None if value is None or base is None else value - base,
            lift_low=None,
            lift_high=None,
        )
    return found


def _judged(samples: Sequence[Sample]) -> list[Judged]:
    return [
        Judged(
            _item(sample),
            None if sample.failure is not None else sample.output,
            Grade(sample.parsed, sample.score, sample.secondary),
        )
        for sample in samples
    ]

"""From stored answers to a score: grading, means with intervals, the paired lift.

Needs no model and no torch: a score can be computed again anywhere from storage alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from loraland.adapters.card import Score, utc_now
from loraland.evaluation.samples import Sample, read_samples
from loraland.evaluation.statistics import CONFIDENCE, mean_interval, paired_interval
from loraland.storage import Storage
from loraland.tasks.grading import grader_for
from loraland.tasks.task import Item, Task


def grade(task: Task, samples: Sequence[Sample]) -> list[Sample]:
    """The same samples graded by the task's grader; needs no model. Raises MetricUnavailable."""
    grader = grader_for(task)
    graded = []
    for sample in samples:
        if sample.failure is not None:
            graded.append(replace(sample, parsed=None, score=0.0))
            continue
        item = Item(sample.prompt, sample.target, json.loads(sample.row))
        parsed, score = grader.grade(sample.output, item)
        graded.append(replace(sample, parsed=parsed, score=score))
    return graded


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
        confidence=CONFIDENCE,
        samples=samples,
        base_samples=base_samples,
        data_source=data_source,
        created=utc_now(),
    )

"""The classical baseline as a column of the leaderboard: a recurrent classifier on a task's items.

    samples/<name>/<task>/lstm-<key>.parquet    its answers, alike to everybody's
    recurrent/text/<name>/<task>-<key>.json     how it was trained

The items are those that bases and adapters are judged on, in their order, and the metric is the
task's. The net is trained on the train rows alone, which the gate of the matrix holds against the
test rows; its key covers recipe, seed and data, so nothing is trained twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loraland.errors import InvalidConfiguration, InvalidName
from loraland.evaluation.exam import Exam
from loraland.evaluation.samples import Sample, read_samples, row_of, write_samples
from loraland.evaluation.scoring import grade, require_gradable
from loraland.evaluation.statistics import Interval, mean_interval
from loraland.recurrent.text import Fields, TextRecipe, Trained, predict, train_classifier
from loraland.storage import Storage
from loraland.tasks.sources import Split, load_split
from loraland.tasks.task import Task, as_text

MODEL = "lstm"  # in the place of a version, in names of samples
NAME = "recurrent"  # of the column, unless another is given
PRECISION = "fp32"
OnEpoch = Callable[[str, int, float, float], None]  # task, epoch, train loss, validation accuracy


class Judged(NamedTuple):
    """What the baseline reaches on a task."""

    task: str
    items: int
    score: Interval
    majority: Interval  # of always the most frequent train label, on the same items
    samples: str  # below the storage root
    facts: dict[str, Any]  # of the training


@dataclass(frozen=True, slots=True)
class Baseline:
    """A column: a name, a recipe and a seed."""

    name: str = NAME
    recipe: TextRecipe = field(default_factory=TextRecipe)
    seed: int = 0

    def identity(self, training: Split) -> str:
        """A hash of all that decides the net's answers, in the place of a base's fingerprint."""
        stamp = {
            "recipe": self.recipe.model_dump(),
            "seed": self.seed,
            "train": training.fingerprint,
            "format": 1,
        }
        return hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()


def judge(
    baseline: Baseline,
    task: Task,
    questions: Split,
    storage: Storage,
    on_epoch: OnEpoch = lambda *_: None,
) -> Judged:
    """Train on the task's train rows, answer the questions, store samples; or read what is there.

    Raises InvalidConfiguration for a task without labels, DataRefused, SourceUnavailable,
    TrainingDiverged.
    """
    if not task.labels:
        raise InvalidConfiguration(
            f"task '{task.name}' has open answers, and a classification head needs labels; tasks "
            "with labels are listed by `loraland tasks list --json`"
        )
    if "/" in baseline.name or baseline.name.startswith("."):
        raise InvalidName(f"'{baseline.name}' cannot name a column; use letters, digits and -")
    training = load_split(task, "train", limit=None, seed=0)
    exam = Exam.of(task, questions, baseline.name, baseline.identity(training), PRECISION)
    require_gradable(task, exam.items)
    place = exam.path(MODEL)
    card = f"recurrent/text/{baseline.name}/{task.name}-{place.rsplit('-', 1)[-1][:12]}.json"
    if not storage.exists(place):
        _train_and_answer(baseline, task, training, exam, storage, place, card, on_epoch)
    samples, _ = read_samples(storage, place)
    facts = storage.read_json(card)
    scores = [one.score for one in samples]
    always = [float(one.target == facts["majority"]) for one in samples]
    return Judged(
        task.name, len(samples), mean_interval(scores), mean_interval(always), place, facts
    )


def _train_and_answer(
    baseline: Baseline, task: Task, training: Split, exam: Exam, storage: Storage, place: str,
    card: str, on_epoch: OnEpoch,
) -> None:  # fmt: skip
    seen = task.for_split("train")
    items = training.items()
    targets = [one.target for one in items]
    trained = train_classifier(
        [_fields(seen, one) for one in training.rows],
        targets,
        task.labels,
        baseline.recipe,
        baseline.seed,
        lambda *told: on_epoch(task.name, *told),
    )
    samples = _answers(trained, task.for_split("test"), exam)
    facts = {
        **trained.facts,
        "curve": trained.curve,
        "train_rows": len(items),
        "majority": max(task.labels, key=targets.count),
        "recipe": baseline.recipe.model_dump(),
        "seed": baseline.seed,
    }
    storage.write_json(card, facts)
    stamp = exam.stamp(MODEL) | {"recurrent": facts, "sampling": "the label of the highest score"}
    write_samples(storage, place, grade(task, samples), stamp)


def _answers(trained: Trained, task: Task, exam: Exam) -> list[Sample]:
    begun = time.perf_counter()
    ids = trained.encode([_fields(task, item.row) for item in exam.items])
    said = predict(trained.classifier, ids)
    ms = 1000 * (time.perf_counter() - begun) / len(ids)
    return [
        Sample(
            item=n,
            prompt=item.prompt,
            target=item.target,
            row=row_of(item),
            output=trained.labels[label],
            parsed=None,
            score=0.0,
            failure=None,
            finish_reason="stop",
            prompt_tokens=len(units),
            tokens=1,
            ms=ms,
        )
        for n, (item, label, units) in enumerate(zip(exam.items, said, ids, strict=True))
    ]


def _fields(task: Task, row: Any) -> Fields:
    """The task's input columns: what the prompt has besides its fixed words."""
    return [as_text(row[column]) for column in task.inputs]


def judge_all(
    baseline: Baseline,
    questions: Sequence[tuple[Task, Split]],
    storage: Storage,
    on_epoch: OnEpoch = lambda *_: None,
) -> list[Judged]:
    """Every task, one after the other; what has samples is not trained again."""
    return [judge(baseline, task, split, storage, on_epoch) for task, split in questions]

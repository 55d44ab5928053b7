"""Tasks and adapters as the playground shows them, with example prompts.

Examples are held-out items that an adapter was judged on, as its samples keep them; without any,
rows of a local folder or of the task's generator. The hub is never asked. What it calls blocks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Literal

from loraland import settings
from loraland.adapters.registry import Entry
from loraland.errors import LoraLandError
from loraland.evaluation.samples import read_samples
from loraland.serving.site_models import CardView, Example, TaskDetail, TaskLine
from loraland.storage import Storage
from loraland.tasks.catalogue import all_tasks, get_task
from loraland.tasks.sources import load_split
from loraland.tasks.task import Row, Task, as_text

logger = logging.getLogger(__name__)

EXAMPLES = 12
MOST_CHARACTERS = 20_000  # of an example's columns together
Origin = Literal["judged", "folder", "generator"]


def task_lines() -> list[TaskLine]:
    """The whole catalogue in its order."""
    return [TaskLine(**_line(task)) for task in all_tasks()]


def task_detail(name: str, storage: Storage, samples: Sequence[str]) -> TaskDetail:
    """A task with examples, from one of these files of samples if they have any.

    Raises UnknownTask.
    """
    task = get_task(name)
    asked = task.for_split("test")
    examples, origin = _examples(task, storage, samples)
    return TaskDetail(
        **_line(task),
        prompt=asked.prompt,
        inputs=list(asked.inputs),
        labels=list(task.labels),
        stop=list(task.stop),
        max_new_tokens=task.max_new_tokens,
        examples=examples,
        examples_from=origin if examples else None,
    )


def judged_on(name: str, entries: Iterable[Entry]) -> list[str]:
    """Files of samples of a task's adapters, the newest first; a few are enough."""
    scores = [score for entry in entries if entry.card.task == name for score in entry.card.scores]
    newest = sorted(scores, key=lambda score: score.created, reverse=True)
    return list(dict.fromkeys(score.samples for score in newest))[:3]


def card_view(entry: Entry) -> CardView:
    """A card for people."""
    card = entry.card
    last = card.curve[-1] if card.curve else None
    return CardView(
        model=str(entry.name),
        base=card.base,
        task=card.task,
        version=card.version,
        aliases=list(entry.aliases),
        precision=card.precision,
        recipe=card.recipe,
        seed=card.seed,
        data=card.data,
        scores=sorted(card.scores, key=lambda score: score.created, reverse=True),
        updates=None if last is None else last.step,
        best_step=card.best_step,
        train_seconds=None if last is None else last.seconds,
        hardware=card.hardware,
        packages=card.packages,
        git_commit=card.git_commit,
        created=card.created,
    )


def values_of(task: Task, row: Row) -> dict[str, str] | None:
    """The prompt's columns of a row as text; None when some are missing or they are very long."""
    if any(column not in row for column in task.inputs):
        return None
    values = {column: as_text(row[column]) for column in task.inputs}
    return values if sum(map(len, values.values())) <= MOST_CHARACTERS else None


def _line(task: Task) -> dict[str, str]:
    return {name: getattr(task, name) for name in TaskLine.model_fields}


def _examples(
    task: Task, storage: Storage, paths: Sequence[str]
) -> tuple[list[Example], Origin | None]:
    asked = task.for_split("test")
    try:
        for path in paths:
            samples, _ = read_samples(storage, path)
            rows = [json.loads(sample.row) for sample in samples[: 2 * EXAMPLES]]
            # Of a rehearsal, or of a prompt that was changed since, the items are others.
            found = _made(asked, rows, {sample.prompt for sample in samples})
            if found:
                return found, "judged"
        origin = _local_source(task)
        if origin is not None:
            split = load_split(task, "test", limit=2 * EXAMPLES)
            return _made(asked, split.rows, None), origin
    except (LoraLandError, ValueError) as error:
        logger.warning("no examples of task %s: %s", task.name, error)
    return [], None


def _local_source(task: Task) -> Origin | None:
    folder = settings.data_folder()
    if folder is not None and (folder / task.name / "test.parquet").exists():
        return "folder"
    return None if task.generator is None else "generator"


def _made(asked: Task, rows: Iterable[Row], prompts: set[str] | None) -> list[Example]:
    found = []
    for row in rows:
        values = values_of(asked, row)
        if values is None or asked.target not in row:
            continue
        item = asked.item(row)
        if prompts is None or item.prompt in prompts:
            found.append(Example(values=values, prompt=item.prompt, target=item.target))
    return found[:EXAMPLES]

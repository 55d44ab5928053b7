"""Columns as tasks of Ray, several bases at a time: asked where a base fits, scored on any core.

What was answered lies in storage: a task whose process or machine is lost is started again and goes
on from the parts. Scoring needs no device and holds none, and runs the programs that models wrote
where that is allowed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.queue import Empty, Queue

from loraland import settings
from loraland.errors import LoraLandError
from loraland.matrix.asking import ask_column
from loraland.matrix.cell import Cell, CellEvent
from loraland.matrix.columns import NOT_ASKED, Asking, Column, Trouble, plan
from loraland.matrix.hardware import GIB
from loraland.matrix.placement import Resources
from loraland.matrix.rescoring import Rescoring, rescore
from loraland.matrix.trial import RETRIES, places_of, settle
from loraland.matrix.work import OnEvent
from loraland.storage import Storage

REPORT_EVERY_S = 0.5
TO_SCORE = Resources(cpus=1)


class Ended(NamedTuple):
    """What became of a column."""

    column: Column
    asking: Asking
    rescoring: Rescoring


def ask_on_ray(
    columns: Sequence[Column],
    storage_uri: str,
    needs: Mapping[str, Resources],
    max_items: int | None = None,
    on_event: OnEvent = lambda event: None,
) -> list[Ended]:
    """Ask and score columns on the connected cluster; `needs` are those of a base, by its name.

    A column that fails leaves the others alone. In the order of the columns.
    """
    events = Queue(actor_options={"num_cpus": 0})
    places = places_of(storage_uri)
    tasks = []
    for column in columns:
        needed, asking = needs[column.base], ray.put(NOT_ASKED)
        if column.sittings:  # else no machine is waited for
            asking = _task(_ask, needed).remote(_job(column, places, max_items, needed), events)
        # Ray starts it when that has come to its end.
        job = _job(column, places, max_items, TO_SCORE)
        tasks.append((asking, _task(_score, TO_SCORE).remote(job, asking)))
    under_way = [scoring for _, scoring in tasks]
    while under_way:
        _, under_way = ray.wait(under_way, timeout=REPORT_EVERY_S)
        _tell(events, on_event)
    with suppress(RayError):
        events.shutdown()
    return [
        Ended(
            column,
            _result(asking, NOT_ASKED, column),
            _result(scoring, Rescoring([], []), column),
        )
        for column, (asking, scoring) in zip(columns, tasks, strict=True)
    ]


def _job(
    column: Column, places: dict[str, str], max_items: int | None, needs: Resources
) -> dict[str, Any]:
    """What a task is told, as JSON values; cells and answers it finds in storage."""
    cells = [one.cell.located().to_json() for one in column.candidates]
    return {"cells": cells, "max_items": max_items, "places": places, "needs": needs._asdict()}


def _task(function: Callable[..., Any], needs: Resources) -> Any:
    return ray.remote(function).options(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        memory=needs.memory_gib * GIB or None,
        accelerator_type=needs.accelerator,
        max_retries=RETRIES,
        retry_exceptions=[OSError],  # storage that was lost for a while
    )


def _result(task: Any, nothing: Any, column: Column) -> Any:
    """What a task gave; when it could not, nothing, with the reason for each cell."""
    try:
        return ray.get(task)
    except (RayError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
    why = LoraLandError(
        f"the task of {column.label} was lost after {RETRIES} retries: {reason}; start the "
        "command again, it goes on from what was kept"
    )
    return nothing._replace(troubles=[Trouble(one.cell, why) for one in column.candidates])


def _tell(events: Queue, on_event: OnEvent) -> None:
    """Pass on what workers have told so far; without the queue there is nothing to watch."""
    while True:
        try:
            told = events.get(block=False)
        except (Empty, RayError):
            return
        on_event(CellEvent(*told))


def _ask(job: dict[str, Any], events: Queue) -> Asking:
    device = settle(job)
    storage = Storage.open(settings.storage_uri())
    found = plan(_cells(job), storage, job["max_items"])
    done = [
        ask_column(one, storage, _Reporter(events).tell, device=device) for one in found.columns
    ]
    troubles = [trouble for one in done for trouble in one.troubles] + found.troubles
    return Asking(
        sum(one.wanted for one in done),
        sum(one.borrowed for one in done),
        sum(one.asked for one in done),
        troubles,
    )


def _score(job: dict[str, Any], _: Asking) -> Rescoring:
    os.environ.update(job["places"])
    storage = Storage.open(settings.storage_uri())
    found = plan(_cells(job), storage, job["max_items"])
    return rescore([one for column in found.columns for one in column.candidates], storage)


def _cells(job: dict[str, Any]) -> list[Cell]:
    return [Cell.from_json(cell) for cell in job["cells"]]


class _Reporter:
    """Tells the driver often enough to watch, seldom enough to cost nothing."""

    def __init__(self, events: Queue) -> None:
        self._events, self._last = events, 0.0

    def tell(self, event: CellEvent) -> None:
        now = time.monotonic()
        if event.done in (0, event.total) or now - self._last >= REPORT_EVERY_S:
            self._last = now
            with suppress(RayError):  # nobody watches any more: the answers count
                self._events.put(tuple(event))

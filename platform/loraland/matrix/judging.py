"""Tells of cells that cannot be judged as things are here, before anything is paid for them.

Asks the grader of a cell's task, and whether programs that a model wrote may be run, and can be
confined; reads no data and runs none of those programs.
"""

from __future__ import annotations

from collections.abc import Iterable

from loraland.errors import LoraLandError, MetricUnavailable, SandboxUnavailable
from loraland.evaluation.scoring import require_gradable
from loraland.matrix.cell import Cell
from loraland.tasks.catalogue import get_task
from loraland.tasks.rehearsal import rehearsed
from loraland.tasks.task import Task


def task_of(cell: Cell) -> Task:
    """The task as the cell is judged on it. Raises UnknownTask."""
    task = get_task(cell.task)
    return rehearsed(task) if cell.data == "rehearsal" else task


def require_judge(cell: Cell) -> None:
    """Raises when the cell's answers could not be scored here.

    MetricUnavailable when programs must be run and may not, SandboxUnavailable when they may and
    cannot be confined, UnknownTask.
    """
    require_gradable(task_of(cell))


def unjudged(cells: Iterable[Cell]) -> dict[str, LoraLandError]:
    """Why cells could not be judged here, by their id; those that can are left out."""
    found: dict[str, LoraLandError] = {}
    for cell in cells:
        try:
            require_judge(cell)
        except (MetricUnavailable, SandboxUnavailable) as error:
            found[cell.id] = error
    return found

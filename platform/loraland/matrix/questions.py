"""Which held-out items the cells of a space are judged on, so that others can be asked the same.

Reads the test rows as a cell does; knows no model and no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loraland.errors import InvalidConfiguration, did_you_mean
from loraland.matrix.cell import Cell
from loraland.matrix.judging import task_of
from loraland.matrix.space import Space
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import Split, load_split
from loraland.tasks.task import Task

ITEMS = 100  # of a task that no space speaks of, as `loraland train` judges on


def questions_on(tasks: Iterable[str], max_items: int | None = None) -> list[tuple[Task, Split]]:
    """The first held-out items of tasks of the catalogue. Raises UnknownTask, SourceUnavailable."""
    found = [get_task(name) for name in dict.fromkeys(tasks)]
    return [(task, load_split(task, "test", limit=max_items or ITEMS)) for task in found]


def questions_of(
    space: Space, tasks: Sequence[str] = (), max_items: int | None = None
) -> list[tuple[Task, Split]]:
    """Each distinct (task, items) of a space once, in its order; of some tasks when they are named.

    Another number of items than the space's makes other items than its cells'. Raises
    InvalidConfiguration for a task that the space has not, SourceUnavailable.
    """
    known = list(dict.fromkeys(cell.task for cell in space.cells))
    if unknown := [name for name in tasks if name not in known]:
        raise InvalidConfiguration(
            f"space '{space.name}' has no task '{unknown[0]}'; {did_you_mean(unknown[0], known)}"
        )
    wanted = [cell for cell in space.cells if not tasks or cell.task in tasks]
    # Test rows keep their order whatever the seed, so cells that differ in it share their items.
    distinct = {(cell.task, cell.data, max_items or cell.max_items): cell for cell in wanted}
    return _read(distinct.values(), max_items)


def _read(cells: Iterable[Cell], max_items: int | None) -> list[tuple[Task, Split]]:
    found = []
    for cell in cells:
        task = task_of(cell)
        split = load_split(
            task,
            "test",
            limit=max_items or cell.max_items,
            seed=cell.seed,
            rehearsal=cell.data == "rehearsal",
        )
        found.append((task, split))
    return found
